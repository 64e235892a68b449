"""How the layers that the strategies choose rank among all sets of layers, each trained in full.

    python -m experiments.layer_sets --name sst2_layer_sets --teacher_layers 6 \\
        examples/sst2.json --max_train_samples 5000

Each set of half of the teacher's layers makes a student, trained with each seed. So do the layers that the strategies
by evidence (`search`, `cka`, `block_influence`) choose with each seed. Sets are ranked by their means over seeds. Runs
have the folders `outputs/NAME/SET-SEED` and `outputs/NAME/STRATEGY-SEED`; finished runs are not repeated. All runs go
to `docs/results/NAME.csv`, the ranking and the choices to `NAME.md`. All other arguments are passed on to
`run_distillation.py`.
"""

import argparse
import itertools
from operator import itemgetter
from statistics import mean

from benchmarks.results import ROOT, write_results
from experiments.runs import finished_record, metric_title, scaled_spread
from layer_mapping import EVIDENCE_STRATEGIES, select_layers
from training.tables import format_layers, grouped, markdown_table

BY_POSITION = ("top", "bottom", "odd", "even")


def main():
    args, passed_on = parse_arguments()
    depth = args.teacher_layers // 2
    sweep, rows = ROOT / "outputs" / args.name, []
    sets = list(itertools.combinations(range(1, args.teacher_layers + 1), depth))
    for seed in args.seeds:
        common = {"teacher_output_dir": sweep / "teacher", "seed": seed}
        for layers in sets:
            settings = {"layers": format_layers(layers), **common}
            record = finished_record(sweep / f"{'-'.join(map(str, layers))}-{seed}", settings, passed_on)
            rows.append(row_of("", seed, record, args.metric))
        for strategy in EVIDENCE_STRATEGIES:
            record = finished_record(sweep / f"{strategy}-{seed}", {"layer_strategy": strategy, **common}, passed_on)
            rows.append(row_of(strategy, seed, record, args.metric))
    names = {select_layers(strategy, args.teacher_layers): strategy for strategy in BY_POSITION}
    ranking = ranked(rows)
    write_results(args.name, rows, f"{sets_table(rows, ranking, names)}\n\n{choices_table(rows, ranking)}")


def row_of(strategy: str, seed: int, record: dict, metric: str) -> dict:
    """Returns a row of the csv file; `strategy` is empty for a set that no strategy has chosen."""
    student = record["student"]
    return {
        "strategy": strategy,
        "layers": format_layers(student["layers"]),
        "seed": seed,
        metric: student["results"][metric],
        "cost_in_runs": student.get("layer_choice", {}).get("cost_in_runs", ""),
        f"teacher_{metric}": record["teacher"]["results"][metric],
    }


def ranked(rows: list[dict]) -> dict[str, list[float]]:
    """Returns the scores of every set of layers, the best set first; rows may come from the csv file too."""
    runs = grouped((row for row in rows if not row["strategy"]), key=itemgetter("layers"))
    scores = {layers: [float(row[metric_of(row)]) for row in members] for layers, members in runs.items()}
    return dict(sorted(scores.items(), key=lambda entry: -mean(entry[1])))


def metric_of(row: dict) -> str:
    """Returns the name of the column that holds the students' scores."""
    return next(name for name in row if name.startswith(("eval_", "predict_")))


def sets_table(rows: list[dict], ranking: dict[str, list[float]], names: dict[tuple[int, ...], str]) -> str:
    """Returns the ranking; `names` are the strategies by position, by their layers."""
    names = {format_layers(layers): name for layers, name in names.items()}
    return markdown_table(
        [
            {
                "Rank": str(rank),
                "Layers": layers,
                "Strategy": names.get(layers, ""),
                f"{metric_title(metric_of(rows[0])).capitalize()} (%)": scaled_spread(scores, 100),
            }
            for rank, (layers, scores) in enumerate(ranking.items(), start=1)
        ]
    )


def choices_table(rows: list[dict], ranking: dict[str, list[float]]) -> str:
    """Returns what the strategies by evidence chose with each seed, and the rank of these layers."""
    places = {layers: place for place, layers in enumerate(ranking, start=1)}
    return markdown_table(
        [
            {
                "Strategy": row["strategy"],
                "Seed": str(row["seed"]),
                "Chosen": row["layers"],
                "Rank": f"{places[row['layers']]} of {len(places)}",
                f"Mean {metric_title(metric_of(row))} of the set (%)": f"{100 * mean(ranking[row['layers']]):.1f}",
                "Cost in runs": f"{row['cost_in_runs']:.2f}" if row["cost_in_runs"] != "" else "0",
            }
            for row in sorted(rows, key=lambda row: row["strategy"])
            if row["strategy"]
        ]
    )


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the folder in outputs/ and of the result files")
    parser.add_argument("--teacher_layers", type=int, required=True, help="the teacher's depth")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--metric", default="eval_accuracy", help="result of the students to rank by (default: %(default)s)"
    )
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
