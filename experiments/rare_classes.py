"""Adjusts the answers of finished students for rare classes, and scores them on the test split.

    python -m experiments.rare_classes all_tweets outputs/all-tweets outputs/tweets

The arguments are the name of a comparison in `docs/results`, which has its predictions for the test split, its output
folder, and the folder with the training file and validation.csv. `training/logit_adjustment.py` says how answers are
adjusted; every run has a t of its own. The predictions for the validation split go to `docs/results/NAME_validation`,
and the table to `docs/results/NAME_adjusted.md`. Predictions that are there are not computed again. Methods that keep
no checkpoint of a whole model are left out.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import AutoConfig

from benchmarks.results import RESULTS
from comparison.bootstrap import difference, holm, p_value_in_print, pooled_seed_variance
from comparison.metrics import macro_f1
from comparison.predictions import STEPS, Predictions
from comparison.results import Group, read_predictions, score_groups
from comparison.styles import capitalized, group_title
from experiments.kept_sentences import predict
from experiments.runs import scaled_spread
from training.logit_adjustment import adjusted, best_power, class_shares
from training.tables import markdown_table

RARE = "hate_speech"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the comparison in docs/results")
    parser.add_argument("comparison", type=Path, help="output folder of run_comparison.py")
    parser.add_argument("data", type=Path, help="folder with the training file and validation.csv")
    parser.add_argument("--train_file", default="train.csv", help="default: %(default)s")
    args = parser.parse_args()
    runs = sorted(file.parent for file in args.comparison.glob("runs/*/model.safetensors"))
    folders = [args.comparison / "teacher", *runs]
    labels = AutoConfig.from_pretrained(folders[0]).label2id
    train, tweets = (
        pd.read_csv(args.data / name, keep_default_na=False) for name in (args.train_file, "validation.csv")
    )
    sentences = Dataset.from_dict({"sentence": tweets["text"], "label": tweets["label"].map(labels)})
    shares = class_shares(train["label"].map(labels), len(labels))
    for folder in folders:
        file = RESULTS / f"{args.name}_validation" / f"{folder.name}.npz"
        if not file.is_file():
            predict(folder, sentences).write(file)
    validation, test = (read_predictions(RESULTS / f"{args.name}{end}") for end in ("_validation", ""))
    (RESULTS / f"{args.name}_adjusted.md").write_text(table(validation, test, shares, labels[RARE]) + "\n")


def table(
    validation: Mapping[Group, Sequence[Predictions]],
    test: Mapping[Group, Sequence[Predictions]],
    shares: np.ndarray,
    rare: int,
) -> str:
    """Returns a row for each group of runs: scores on the test split as trained and adjusted, and the gain.

    Args:
        shares: of the classes in the training split.
        rare: the class whose F1 is shown.
    """
    powers = {
        group: [best_power(log_probabilities(run), run.labels, shares) for run in runs]
        for group, runs in validation.items()
    }
    trained = {group: test[group] for group in validation}
    moved = {
        group: [with_adjusted_answers(run, shares, power) for run, power in zip(runs, powers[group], strict=True)]
        for group, runs in trained.items()
    }
    before, after = (score_groups(runs, with_calibration=False)[macro_f1.name] for runs in (trained, moved))
    seeds = pooled_seed_variance([*before.values(), *after.values()])
    gains = {group: difference(after[group], before[group], seeds) for group in validation}
    corrected = dict(zip(gains, holm([gain.p_value for gain in gains.values()]), strict=True))
    return markdown_table(
        [
            {
                "Model": capitalized(group_title(group)),
                "Macro-F1 (%)": scaled_spread(before[group].by_seed, 100),
                "F1 hate speech (%)": scaled_spread([f1(run, rare) for run in trained[group]], 100),
                "t": ", ".join(f"{power:.2f}" for power in powers[group]),
                "Macro-F1, adjusted (%)": scaled_spread(after[group].by_seed, 100),
                "F1 hate speech, adjusted (%)": scaled_spread([f1(run, rare) for run in moved[group]], 100),
                "Gain in macro-F1 (points)": str(gains[group]),
                "p (Holm)": p_value_in_print(corrected[group]),
            }
            for group in validation
        ]
    )


def log_probabilities(predictions: Predictions) -> np.ndarray:
    """Returns logits `(examples, classes)`, up to a constant of each example. 0 counts as half a packed step."""
    return np.log(np.maximum(predictions.probabilities, 0.5 / STEPS))


def with_adjusted_answers(predictions: Predictions, shares: np.ndarray, power: float) -> Predictions:
    logits = adjusted(log_probabilities(predictions), shares, power)
    return replace(predictions, answers=logits.argmax(axis=1))


def f1(predictions: Predictions, label: int) -> float:
    return f1_score(predictions.labels == label, predictions.answers == label)


if __name__ == "__main__":
    main()
