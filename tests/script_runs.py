"""What the tests of the scripts share: running them, reading what they leave, and sentences to train on."""

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets

import run_distillation
from layer_distillation.record import RunRecord
from tests.forked_runs import run_forked
from training.tables import results_table

SCRIPT = Path(run_distillation.__file__)
MNLI = Path(datasets.config.HF_DATASETS_CACHE) / "nyu-mll___glue" / "mnli"
GOOD, BAD = ["lovely", "great", "kind", "helpful", "clear"], ["awful", "rude", "useless", "broken", "silly"]
NOUNS = ["answer", "recipe", "match", "patch", "novel", "garden", "song"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# The same numbers on every machine.
ALWAYS = ["--bf16", "false", "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]


def sentences(number, start=0):
    """Sentences with labels, in which one word tells the label."""
    rows = []
    for i in range(start, start + number):
        label, words = ("good", GOOD) if i % 3 else ("bad", BAD)
        rows.append((f"what a {words[i % 5]} {NOUNS[i % 7]}" + " indeed" * (i % 4), label))
    return rows


def write_csv(path, rows, header=("text", "label")):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def write_json_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def run_main(script, *arguments):
    """Calls the `main` of a script's module in this process, which saves the imports."""
    return script.main([*map(str, arguments), *ALWAYS])


def run_process(script, *arguments, launcher=()):
    """Starts a script as a user does. It takes seconds until all is imported: enough once for a script."""
    command = [sys.executable, *launcher, script, *map(str, arguments), *ALWAYS]
    return subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent)


run_here = partial(run_main, run_distillation)


def run_elsewhere(*arguments, script=SCRIPT, **options):
    """Runs `run_distillation.py` in one or several other processes."""
    return run_forked(script, *arguments, *ALWAYS, **options)


def results(folder, name="all_results"):
    return json.loads((folder / f"{name}.json").read_text())


def read_record(folder, name="distillation"):
    """The record of a finished run as it is on the disk, `None` if there is none."""
    file = Path(folder) / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def table_of(folder):
    """The table that a finished run has printed."""
    return results_table(RunRecord.read(folder))


def metrics(folder):
    """All results but those that a clock gives, and the epoch, which is 0 where nothing was trained."""
    by_clock = ("_runtime", "_per_second", "_time", "_time_mm", "_runtime_mm", "_per_second_mm")
    return {name: value for name, value in results(folder).items() if name != "epoch" and not name.endswith(by_clock)}


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def predictions(folder, split="test"):
    with open(folder / f"predictions_{split}.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def tree(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
