"""What the benchmarks of many runs share: `run_distillation.py` once for each folder, means and deviations."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent


def finished_record(folder: Path, settings: Mapping[str, object], arguments: Sequence[str]) -> dict:
    """The record of the run in a folder, which is trained now if it is not finished.

    Args:
        settings: of this run, by name.
        arguments: of all runs: a file for `run_distillation.py` and flags, which `settings` override.
    """
    record = folder / "distillation.json"
    if not record.is_file():
        print(f"{folder.name} ...", flush=True)
        flags = [f"--{name}={value}" for name, value in {"output_dir": folder, **settings}.items()]
        command = [sys.executable, "run_distillation.py", *arguments, *flags]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads(record.read_text())


def spread(values: Sequence[float], factor: float) -> str:
    """Mean and standard deviation; with the factor 100 in percent."""
    digits = 1 if factor == 100 else 3
    values = [factor * value for value in values]
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"
