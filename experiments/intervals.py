"""Computes the intervals of a comparison again from its committed predictions.

    python -m experiments.intervals outputs/toxic_comments-comparison/predictions
    python -m experiments.intervals outputs/toxic_comments-comparison/predictions --against distill-odd

Prints a table for each metric: the score of every group of runs, and how far it is ahead of the reference, in
percentage points with 95% intervals and p-values corrected for the number of rows (Holm). The variance of seeds is
pooled over all groups; where no group has several seeds, nothing is said about it and there are no intervals.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from comparison.bootstrap import Interval, Scores, difference, holm, p_value_in_print, pooled_seed_variance, score
from comparison.results import Group, read_predictions, score_groups
from comparison.styles import group_title
from training.tables import markdown_table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder `predictions` of a comparison")
    parser.add_argument("--against", default="teacher", help="reference: METHOD-STRATEGY, METHOD or teacher")
    args = parser.parse_args(argv)
    method, _, strategy = args.against.partition("-")
    for metric, scores in score_groups(read_predictions(args.folder)).items():
        print(f"{metric}\n\n{table_of(scores, (method, strategy))}\n")


def table_of(scores: Mapping[Group, Scores], reference: Group) -> str:
    """Returns a row for each group: its score, and its lead over the reference."""
    seeds = pooled_seed_variance(scores.values())
    others = [group for group in scores if group != reference]
    leads = {group: difference(scores[group], scores[reference], seeds) for group in others}
    scored = {group: score(of_group, seeds) for group, of_group in scores.items()}
    corrected = dict(zip(others, holm([lead.p_value for lead in leads.values()]), strict=True))
    return markdown_table(
        [
            {
                "Model": group_title(group),
                "Runs": str(len(scores[group].by_seed)),
                "Score": of_group.in_print.lstrip("+"),
                f"Minus {group_title(reference)} (points)": leads[group].in_print if group in leads else "-",
                "Corrected p": _p_value(leads[group], corrected[group]) if group in leads else "-",
            }
            for group, of_group in scored.items()
        ]
    )


def _p_value(lead: Interval, corrected: float) -> str:
    return p_value_in_print(corrected) if lead.over_seeds else "-"


if __name__ == "__main__":
    main()
