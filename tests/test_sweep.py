"""Tests of how a sweep uses finished runs, and of what it says about the differences between its students."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from runs import finished_record
from sweep import differences, summary

RIGHT = ["yes", "no"] * 50


def write_run(folder, predictions, labels=RIGHT, split="validation"):
    folder.mkdir(exist_ok=True)
    rows = [f"{label},{prediction}" for label, prediction in zip(labels, predictions, strict=True)]
    (folder / f"predictions_{split}.csv").write_text("\n".join(["label,prediction", *rows]))
    return folder


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_differences_are_those_to_the_reference_of_the_same_name(tmp_path, metric):
    worse = ["no"] * 10 + RIGHT[10:]
    folders = [
        write_run(tmp_path / f"{group}-{seed}", predictions)
        for group, predictions in (("odd-default", RIGHT), ("odd-hidden", worse), ("top-default", RIGHT))
        for seed in (0, 1)
    ]
    cells = differences(folders, "odd-default", metric)
    assert cells.keys() == {("odd", "hidden"), ("top", "default")}
    (title, same), (_, lower) = (*cells["top", "default"].items(), *cells["odd", "hidden"].items())
    assert title == f"{'Accuracy' if metric == 'accuracy' else 'Macro-F1'} against odd-default (points)"
    assert same == "+0.0 [0.0, 0.0]"
    estimate, interval = lower.split(" ", 1)
    low, high = (float(limit) for limit in interval.strip("[]").split(", "))
    assert float(estimate) == pytest.approx(-5, abs=0.1) and low < -5 < high < 0


def test_differences_are_of_the_test_split_where_its_labels_are_known(tmp_path):
    folders = [tmp_path / "odd-default-0", tmp_path / "odd-hidden-0"]
    for folder in folders:
        write_run(folder, RIGHT)
        write_run(folder, RIGHT, split="test")
    write_run(folders[1], RIGHT[1:] + RIGHT[:1], split="test")
    (cell,) = differences(folders, "odd-default", "accuracy").values()
    assert list(cell.values()) == ["-100.0 [-100.0, -100.0]"]


def test_the_reference_itself_has_an_empty_cell(tmp_path):
    rows = [
        {"strategy": "odd", "recipe": recipe, "seed": "0", "layers": "1 3", "eval_accuracy": 0.9}
        for recipe in ("default", "hidden")
    ]
    margins = {("odd", "hidden"): {"Against": "+0.1 [0.0, 0.2]"}}
    _, _, reference, other = summary(rows, margins).splitlines()
    assert reference.split("|")[4].strip() == "" and other.split("|")[4].strip() == "+0.1 [0.0, 0.2]"


def test_a_finished_run_is_used_for_the_command_that_made_it_and_for_no_other(tmp_path):
    folder = tmp_path / "odd-default-0"
    folder.mkdir()
    command = f"python run_distillation.py examples/sst2.json --output_dir={folder} --seed=0"
    (folder / "distillation.json").write_text(json.dumps({"command": command}))
    assert finished_record(folder, {"seed": 0}, ["examples/sst2.json"]) == {"command": command}
    with pytest.raises(ValueError, match="holds a run of another command"):
        finished_record(folder, {"seed": 0}, ["examples/sst2.json", "--bf16", "false"])
