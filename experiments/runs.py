"""Runs as the studies use them: trained once for each folder, scored with intervals, averaged over seeds.

record = finished_record(folder, {"layer_strategy": "odd", "seed": 0}, ["examples/sst2.json"])
scores = bootstrap_runs(accuracy, [folder, ...])
"""

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.results import ROOT
from comparison.bootstrap import Scores, bootstrap
from comparison.metrics import Metric
from layer_distillation.errors import UserError
from training.tables import METRIC_TITLES, spread

SPLITS = {"eval": "validation", "predict": "test"}


def finished_record(folder: Path, settings: Mapping[str, object], arguments: Sequence[str]) -> dict:
    """Returns the record of the run in a folder, after training the run if it is not finished.

    Args:
        settings: arguments of this run alone, by name.
        arguments: arguments of all runs: a file for `run_distillation.py` and options. `settings` override them.

    Raises:
        UserError: the folder holds a finished run of another command.
    """
    file = folder / "distillation.json"
    flags = [f"--{name}={value}" for name, value in {"output_dir": folder, **settings}.items()]
    command = ["run_distillation.py", *arguments, *flags]
    if not file.is_file():
        print(f"{folder.name} ...", flush=True)
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    record = json.loads(file.read_text())
    if record["command"] != shlex.join(["python", *command]):
        raise UserError(
            f"{folder} holds a run of another command: {record['command']}. Remove it, or choose another --name."
        )
    return record


def bootstrap_runs(metric: Metric, folders: Sequence[Path], fresh: bool = False) -> Scores:
    """Scores students that differ in the seed alone, on the test split if its labels are known, else on validation.

    Args:
        metric: `accuracy` or `macro_f1` of `comparison.metrics`.
        folders: folders of the runs.
        fresh: as in `Scores`.

    Raises:
        UserError: a run has no predictions for labeled examples.
    """
    runs = [_reported_predictions(folder) for folder in folders]
    names = sorted({name for columns in runs for column in columns for name in column})
    ids = np.searchsorted(names, runs)  # (seeds, labels and predictions, examples)
    return bootstrap(metric, ids[0, 0], ids[:, 1], fresh=fresh)


def _reported_predictions(folder: Path) -> tuple[list[str], list[str]]:
    """Returns labels and predictions of the test split if its labels are known, else of the validation split."""
    for file in sorted(folder.glob("predictions_*.csv")):
        labels, predictions = read_predictions(file)
        if None not in labels:
            return labels, predictions
    raise UserError(
        f"A run needs predictions for labeled examples, but found none in {folder}. Run it with --do_predict."
    )


def read_predictions(file: Path) -> tuple[list[str | None], list[str]]:
    """Returns labels (`None` where unknown) and predictions of a run's `predictions_SPLIT.csv`."""
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row.get("label") for row in rows], [row["prediction"] for row in rows]


def scaled_spread(values: Sequence[float | None], factor: float) -> str:
    """Returns mean ± standard deviation, or `-` where a value is missing.

    Args:
        factor: 100 for percent with one decimal, 1 for three decimals.
    """
    scaled = [None if value is None else factor * value for value in values]
    return spread(scaled, 1 if factor == 100 else 3)


def metric_title(metric: str) -> str:
    """Returns the name of a metric as people read it: "validation accuracy" for `eval_accuracy`."""
    prefix, _, name = metric.partition("_")
    return f"{SPLITS[prefix]} {METRIC_TITLES.get(name, name)}"
