"""What the benchmarks of many runs share: `run_distillation.py` once for each folder, means, deviations, intervals."""

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from comparison.bootstrap import Scores, bootstrap
from training.tables import spread

ROOT = Path(__file__).resolve().parent.parent


def finished_record(folder: Path, settings: Mapping[str, object], arguments: Sequence[str]) -> dict:
    """The record of the run in a folder, which is trained now if it is not finished.

    Args:
        settings: of this run, by name.
        arguments: of all runs: a file for `run_distillation.py` and flags, which `settings` override.

    Raises:
        ValueError: the folder holds a finished run of another command.
    """
    file = folder / "distillation.json"
    flags = [f"--{name}={value}" for name, value in {"output_dir": folder, **settings}.items()]
    command = ["run_distillation.py", *arguments, *flags]
    if not file.is_file():
        print(f"{folder.name} ...", flush=True)
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    record = json.loads(file.read_text())
    if record["command"] != shlex.join(["python", *command]):
        raise ValueError(
            f"{folder} holds a run of another command: {record['command']}. Remove it, or choose another --name."
        )
    return record


def bootstrap_runs(metric: Callable[[np.ndarray], np.ndarray], folders: Sequence[Path]) -> Scores:
    """Scores students that differ in the seed alone, on the split that their runs report on.

    Args:
        metric: as for `bootstrap`.
        folders: of the runs.
    """
    runs = [_reported_predictions(folder) for folder in folders]
    names = sorted({name for columns in runs for column in columns for name in column})
    ids = np.searchsorted(names, runs)  # (seeds, labels and predictions, examples)
    return bootstrap(metric, ids[0, 0], ids[:, 1])


def _reported_predictions(folder: Path) -> tuple[list[str], list[str]]:
    """Labels and predictions of the test split if its labels are known, else of the validation split."""
    for file in sorted(folder.glob("predictions_*.csv")):
        labels, predictions = read_predictions(file)
        if None not in labels:
            return labels, predictions
    raise FileNotFoundError(f"{folder} has no predictions for labelled examples.")


def read_predictions(file: Path) -> tuple[list[str | None], list[str]]:
    """Labels, `None` where they are not known, and predictions of a run's `predictions_SPLIT.csv`."""
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row.get("label") for row in rows], [row["prediction"] for row in rows]


def grouped(items: Iterable, key: Callable[..., Hashable]) -> dict[Hashable, list]:
    """The items by their keys, in the order of first appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def scaled_spread(values: Sequence[float | None], factor: float) -> str:
    """Mean and standard deviation, `-` where a value is missing; with the factor 100 in percent."""
    scaled = [None if value is None else factor * value for value in values]
    return spread(scaled, 1 if factor == 100 else 3)
