"""Tests of what the studies make of many runs: which runs they use, differences, tables, and small validation sets."""

import json
import sys
from statistics import median

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from sklearn.metrics import f1_score

from benchmarks import busy_machine, grid, vocabulary_step
from comparison.bootstrap import bootstrap, difference, pooled_seed_variance
from comparison.metrics import accuracy
from experiments import small_validation, trial_length
from experiments.more_pairs import more_pairs
from experiments.runs import bootstrap_runs, finished_record
from experiments.sweep import RECIPES, differences, settings_of, summary
from experiments.vocabulary import Vocabulary, changes
from layer_distillation.errors import UserError

RIGHT = ["yes", "no"] * 50


def write_run(folder, predictions, labels=RIGHT, split="validation"):
    folder.mkdir(exist_ok=True)
    rows = [f"{label},{prediction}" for label, prediction in zip(labels, predictions, strict=True)]
    (folder / f"predictions_{split}.csv").write_text("\n".join(["label,prediction", *rows]))
    return folder


def cells_of(line):
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


@pytest.mark.parametrize("metric, title", [("accuracy", "Accuracy"), ("macro_f1", "Macro-F1")])
def test_differences_are_those_to_the_reference_of_the_same_name(tmp_path, metric, title):
    worse = ["no"] * 10 + RIGHT[10:]
    folders = [
        write_run(tmp_path / f"{group}-{seed}", predictions)
        for group, predictions in (("odd-default", RIGHT), ("odd-hidden", worse), ("top-default", RIGHT))
        for seed in (0, 1)
    ]
    cells = differences(folders, "odd-default", metric)
    assert cells.keys() == {("odd", "hidden"), ("top", "default")}
    ((name, same),), (lower,) = cells["top", "default"].items(), cells["odd", "hidden"].values()
    assert name.startswith(f"{title} ") and "odd" in name
    assert same == "+0.0 [0.0, 0.0]"
    estimate, interval = lower.split(" ", 1)
    low, high = (float(limit) for limit in interval.strip("[]").split(", "))
    assert float(estimate) == pytest.approx(-5, abs=0.1) and low < -5 < high < 0


def test_seeds_are_pooled_over_all_runs_and_those_of_fresh_weights_by_themselves(tmp_path):
    # Wrong answers of each seed.
    wrong = {"odd": (4, 6, 5), "top": (10, 14, 12), "bottom": (2, 20, 40), "random": (5, 40, 80)}
    answers = {
        strategy: [["maybe"] * number + RIGHT[number:] for number in numbers] for strategy, numbers in wrong.items()
    }
    folders = [
        write_run(tmp_path / f"{strategy}-default-{seed}", predictions)
        for strategy, of_strategy in answers.items()
        for seed, predictions in enumerate(of_strategy)
    ]
    scores = {
        strategy: bootstrap(accuracy, np.array(RIGHT), np.array(of_strategy), fresh=strategy == "random")
        for strategy, of_strategy in answers.items()
    }
    seeds = pooled_seed_variance(scores.values())
    cells = differences(folders, "odd-default", "accuracy")
    for strategy in ("top", "random"):
        (cell,) = cells[strategy, "default"].values()
        assert cell == str(difference(scores[strategy], scores["odd"], seeds))
        assert cell != str(difference(scores[strategy], scores["odd"]))  # of their own seeds alone


def test_differences_are_of_the_test_split_where_its_labels_are_known(tmp_path):
    folders = [tmp_path / "odd-default-0", tmp_path / "odd-hidden-0"]
    for folder in folders:
        write_run(folder, RIGHT)
        write_run(folder, RIGHT, split="test")
    write_run(folders[1], RIGHT[1:] + RIGHT[:1], split="test")
    (cell,) = differences(folders, "odd-default", "accuracy").values()
    assert list(cell.values()) == ["-100.0 [-100.0, -100.0]"]


def test_a_recipe_replaces_what_all_runs_have_and_leaves_out_what_it_sets_to_none(tmp_path):
    common = {"teacher_output_dir": tmp_path / "teacher", "seed": 1}
    assert settings_of(tmp_path, "odd", "default", 1) == {**common, "layer_strategy": "odd"}
    encoder = str(tmp_path / "encoder")
    assert settings_of(tmp_path, "odd", "pretrained", 1) == {**common, "student_name_or_path": encoder}


def test_the_reference_itself_has_an_empty_cell(tmp_path):
    rows = [
        {"strategy": "odd", "recipe": recipe, "seed": "0", "layers": "1 3", "eval_accuracy": 0.9}
        for recipe in ("default", "hidden")
    ]
    margins = {("odd", "hidden"): {"Against": "+0.1 [0.0, 0.2]"}}
    _, _, reference, other = map(cells_of, summary(rows, margins).splitlines())
    assert reference[3:] == [""] and other[3:] == ["+0.1 [0.0, 0.2]"]


def test_students_of_texts_without_labels_have_no_training_loss_in_the_table():
    labelled = {"strategy": "odd", "recipe": "default", "layers": "1 3", "train_eval_loss": 0.2, "eval_accuracy": 0.9}
    unlabelled = {"strategy": "odd", "recipe": "more_text", "layers": "1 3", "eval_accuracy": 0.9}
    *_, row = summary([labelled, unlabelled], {}).splitlines()
    assert cells_of(row) == ["odd (1 3)", RECIPES["more_text"].title, "-", "90.0"]


def test_students_without_teacher_layers_are_named_by_where_their_weights_come_from():
    rows = [
        {"strategy": strategy, "recipe": recipe, "layers": "none", "eval_accuracy": 0.9}
        for strategy, recipe in (("random", "default"), ("odd", "pretrained"))
    ]
    _, _, random, pretrained = map(cells_of, summary(rows, {}).splitlines())
    assert random[0] == "random (fresh weights)" and pretrained[:2] == ["odd", RECIPES["pretrained"].title]


def test_a_finished_run_is_used_for_the_command_that_made_it_and_for_no_other(tmp_path):
    folder = tmp_path / "odd-default-0"
    folder.mkdir()
    command = f"python run_distillation.py examples/sst2.json --output_dir={folder} --seed=0"
    (folder / "distillation.json").write_text(json.dumps({"command": command}))
    assert finished_record(folder, {"seed": 0}, ["examples/sst2.json"]) == {"command": command}
    with pytest.raises(UserError, match=f"{folder.name}.*--name"):
        finished_record(folder, {"seed": 0}, ["examples/sst2.json", "--bf16", "false"])


def test_trials_are_compared_with_full_runs_by_the_order_that_both_give():
    runs = [("", "1,2", "0.8"), ("", "1,3", "0.7"), ("", "2,3", "0.5"), ("", "1,2", "0.6"), ("search", "2,3", "0.9")]
    rows = [{"strategy": strategy, "layers": layers, "eval_accuracy": score} for strategy, layers, score in runs]
    assert trial_length.mean_scores(rows) == {(1, 2): pytest.approx(0.7), (1, 3): 0.7, (2, 3): 0.5}
    full_runs = {(1, 2): 0.8, (1, 3): 0.7, (2, 3): 0.5}
    losses = {5: {"1,2": 3.0, "1,3": 2.0, "2,3": 1.0}, 90: {"1,2": 0.1, "1,3": 0.2, "2,3": 0.3}}
    rows = [{"steps": s, "layers": layers, "loss": loss} for s in losses for layers, loss in losses[s].items()]
    short, long = trial_length.correlations(rows, full_runs, 100, "eval_accuracy").splitlines()[2:]
    assert cells_of(short) == ["5 of 100", "-1.00", "2 3 (3), 1 3 (2), 1 2 (1)"]
    assert cells_of(long) == ["90 of 100", "1.00", "1 2 (1), 1 3 (2), 2 3 (3)"]


def test_more_pairs_are_of_similar_second_sentences_and_none_is_the_validation_splits():
    def split(*pairs):
        return Dataset.from_dict(dict(zip(("premise", "hypothesis"), zip(*pairs))))

    splits = {
        "train": split(("The cat sat on the mat.", "A cat sat."), ("The cat slept.", "The cat was on the mat.")),
        "test": split(("Rain fell in Rome.", "It rained in Rome."), ("The cat slept.", "A dog barked.")),
        "validation": split(("Rain fell in Rome.", "A cat sat.")),
    }
    pairs = more_pairs(splits, ("premise", "hypothesis"), 1)
    given = [(row["premise"], row["hypothesis"]) for name in ("train", "test") for row in splits[name]]
    assert pairs[:4] == given
    # No other second sentence shares a word with Rome's: the first of them makes the pair that is held back.
    assert pairs[4:] == [("The cat sat on the mat.", "The cat was on the mat."), ("The cat slept.", "A cat sat.")]


def test_a_small_validation_set_can_rank_the_worse_student_first(tmp_path, capsys, monkeypatch):
    better, worse = RIGHT[:90] + ["wrong"] * 10, ["wrong"] * 14 + RIGHT[14:]
    folders = [write_run(tmp_path / name, ran) for name, ran in (("worse", worse), ("better", better))]
    files = [str(folder / "predictions_validation.csv") for folder in folders]
    monkeypatch.setattr(sys, "argv", ["small_validation.py", *files])
    small_validation.main()
    out = capsys.readouterr().out
    assert "100 examples: 90.0 and 86.0" in out
    (row,) = (line for line in out.splitlines() if line.startswith("| 50 "))
    _, _, ahead_or_level, ahead = cells_of(row)
    assert 5 < float(ahead) < float(ahead_or_level) < 30


def test_predictions_of_other_examples_or_without_labels_are_refused(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "a", RIGHT)
    write_run(tmp_path / "b", RIGHT, labels=RIGHT[::-1])
    unlabeled = tmp_path / "predictions_test.csv"
    unlabeled.write_text("prediction\nyes\nno\n")
    labeled = [tmp_path / name / "predictions_validation.csv" for name in "ab"]
    for files, reason in ((labeled, "different examples"), ((unlabeled, unlabeled), "without labels")):
        monkeypatch.setattr(sys, "argv", ["small_validation.py", *map(str, files)])
        with pytest.raises(SystemExit):
            small_validation.main()
        assert reason in capsys.readouterr().err
    with pytest.raises(UserError, match=str(tmp_path)):
        bootstrap_runs(accuracy, [tmp_path])


def test_a_grid_is_compared_with_the_earlier_build_round_by_round():
    rows = [{"round": 1, "this build": 10.0, "4566f60": 20.0}, {"round": 2, "this build": 20.0, "4566f60": 30.0}]
    *_, this, earlier = grid.table(rows).splitlines()
    assert cells_of(this) == ["this build", "15.00 [10.00 - 20.00]", "1.75 [1.50 - 2.00]"]
    assert cells_of(earlier) == ["4566f60", "25.00 [20.00 - 30.00]", "1.00 [1.00 - 1.00]"]


def test_a_busy_machine_is_compared_with_the_same_build_alone_and_builds_with_each_other():
    times = {"this build, alone": 0.2, "this build, busy": 0.6, "4566f60, alone": 0.1, "4566f60, busy": 1.0}
    *_, this, earlier = busy_machine.table([{"round": 1, **times}]).splitlines()
    assert cells_of(this)[-2:] == ["3.00 [3.00 - 3.00]", "0.50 [0.50 - 0.50]"]
    assert cells_of(earlier)[-2:] == ["10.00 [10.00 - 10.00]", "1.00 [1.00 - 1.00]"]


def test_the_steps_of_vocabularies_are_compared_round_by_round(monkeypatch):
    monkeypatch.setattr(vocabulary_step, "SIZES", (64, 32))
    monkeypatch.setattr(sys, "argv", ["vocabulary_step", "--rounds", "3", "--steps", "1", "--length", "4"])
    written = {}
    monkeypatch.setattr(
        vocabulary_step, "write_results", lambda name, rows, page: written.update(rows=rows, page=page)
    )
    vocabulary_step.main()
    ratios = {}
    for row in written["rows"]:
        ratios.setdefault((row["precision"], row["round"]), []).append(row["ms"])
    in_float32 = [full / small for (precision, _), (full, small) in ratios.items() if precision == "float32"]
    (line,) = [line for line in written["page"].splitlines() if line.startswith("| float32") and "| 32 " in line]
    assert cells_of(line)[-1].split()[0] == f"{median(in_float32):.2f}" and len(in_float32) == 3


def test_a_smaller_vocabulary_is_judged_by_the_texts_whose_pieces_it_keeps():
    labels = [0, 1, 0, 1]
    texts = DatasetDict(test=Dataset.from_dict({"input_ids": [[1, 2], [1, 3], [2, 2], [3, 1]], "labels": labels}))
    whole = Vocabulary("whole", texts, collator=None)
    smaller = Vocabulary("2 pieces", texts, None, np.array([1, 2]), {"tokens": 0.25, "texts": 0.5})
    before, after = np.array([[0, 1, 0, 1], [0, 1, 1, 1]]), np.array([[0, 0, 0, 1], [0, 1, 0, 0]])
    row = changes(smaller, whole, before, after)
    assert (row["kept_texts"], row["kept_texts_answered_alike"], row["answers_changed"]) == (4, 3, 0.375)
    scores = [
        np.mean([f1_score(labels, answers, average="macro") for answers in of_all]) for of_all in (before, after)
    ]
    assert row["macro_f1_change"] == pytest.approx(100 * (scores[1] - scores[0]), abs=1e-3)
