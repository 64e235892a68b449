"""Tests of `teacher_columns`: scores of another teacher, whose classes are in the order that the data state."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit, softmax

from layer_distillation.errors import UserError
from tests.script_runs import read_record, results, run_here, sentences, write_csv
from text_data.arguments import DataArguments
from text_data.loading import load_data
from training import run as training_run

pytestmark = pytest.mark.usefixtures("script_caches")
SCORES = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)  # of "bad" and of "good"


@pytest.fixture
def load(tmp_path):
    """Loads six texts with these further columns, and returns the teacher's logits."""

    def load(columns, labels=None, **arguments):
        labels = labels or [label for _, label in sentences(6)]
        rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
        for name, values in columns.items():
            rows = [row | {name: value} for row, value in zip(rows, values, strict=True)]
        files = {}
        for split in ("train", "validation"):
            files[f"{split}_file"] = str(tmp_path / f"{split}.jsonl")
            (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data = load_data(DataArguments(**files, teacher_column_name="scores", **arguments), seed=0)
        return np.array(data.splits["train"]["teacher_logits"])

    return load


def test_every_form_of_the_column_says_which_class_a_score_belongs_to(load):
    by_name = {"scores": [{"good": good, "bad": bad} for bad, good in SCORES.tolist()]}
    assert np.array_equal(load(by_name), SCORES)
    assert np.array_equal(load({"scores": SCORES[:, ::-1].tolist()}, teacher_label_order="good,bad"), SCORES)
    columns = {"scores_good": SCORES[:, 1].tolist(), "scores_bad": SCORES[:, 0].tolist()}
    assert np.array_equal(load(columns), SCORES)
    as_text = {name: list(map(str, values)) for name, values in columns.items()}
    assert np.allclose(load(as_text), SCORES)


def test_lists_of_any_kind_in_parquet_files_hold_scores(tmp_path):
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)):
        table = {"text": list("abcdef"), "label": ["bad", "good"] * 3, "scores": pa.array(SCORES.tolist(), kind)}
        pq.write_table(pa.table(table), tmp_path / "train.parquet")
        files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "train.parquet"))
        args = DataArguments(**files, teacher_column_name="scores", teacher_label_order="bad,good")
        assert np.array_equal(load_data(args, seed=0).splits["train"]["teacher_logits"][:], SCORES)


def test_numbers_have_a_decimal_comma_or_point_and_spaces_around_them(load):
    for mark in (".", ","):
        cells = [[f" {score:.3f} ".replace(".", mark) for score in row] for row in SCORES]
        logits = load({"scores": [{"bad": bad, "good": good} for bad, good in cells]})
        np.testing.assert_allclose(logits, SCORES, atol=6e-4)


def test_a_regression_has_one_number_a_text(load):
    numbers, targets = SCORES[:, :1], [0.5, 1.25, 2.5, 3.75, 4.0, 5.0]
    for scores in (numbers.ravel().tolist(), list(map(str, numbers.ravel().tolist()))):
        assert np.allclose(load({"scores": scores}, targets), numbers)
    with pytest.raises(UserError, match="row 6"):
        load({"scores": [1.0] * 5 + [None]}, targets)


def test_probabilities_become_logits_with_these_probabilities(load):
    probabilities = softmax(SCORES, axis=1)
    logits = load({"scores": probabilities.tolist()}, teacher_label_order="bad,good", teacher_scores="probabilities")
    assert np.allclose(softmax(logits, axis=1), probabilities, atol=1e-5)
    of_labels = [["bad"], ["good"], ["bad", "good"]] * 2
    arguments = {"teacher_label_order": "bad,good", "teacher_scores": "probabilities"}
    logits = load({"scores": expit(SCORES).tolist()}, of_labels, **arguments)
    assert np.allclose(logits, SCORES, atol=1e-4)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, {}, "--teacher_column_name scores"),
        ({"scores": SCORES.tolist()}, {}, "--teacher_label_order bad,good"),
        ({"scores": SCORES.tolist()}, {"teacher_label_order": "bad,fine"}, "bad, fine.*--teacher_label_order"),
        ({"scores_bad": [0.5] * 6}, {}, "bad, good.*of bad"),
        ({"scores": [[1.0, 2.0]] * 5 + [[1.0]]}, {"teacher_label_order": "bad,good"}, "row 6"),
        ({"scores_bad": [0.5] * 6, "scores_good": [1.0] * 5 + [None]}, {}, "row 6"),
        ({"scores": [{"bad": 0.5, "good": 1.0}] * 5 + [None]}, {}, "row 6"),
        (
            {"scores_bad": [0.5] * 6, "scores_good": [0.7] * 6},
            {"teacher_scores": "probabilities"},
            "row 1 .*0.5, 0.69",
        ),
    ],
)
def test_scores_that_do_not_fit_the_labels_are_refused(load, columns, arguments, message):
    with pytest.raises(UserError, match=message):
        load(columns, **arguments)


def test_a_student_learns_from_the_column_alone(teacher, make_teacher, tmp_path, monkeypatch):
    """The teacher has no trained head and the texts have no labels: nothing but the column can teach."""
    seen, make = [], training_run.DistillationTrainer
    monkeypatch.setattr(training_run, "DistillationTrainer", lambda **given: seen.append(given) or make(**given))
    rows = [(text, 3.0 if label == "good" else -3.0) for text, label in sentences(40)]
    train = write_csv(
        tmp_path / "train.csv", [(text, score, -score) for text, score in rows], ("text", "logit_good", "logit_bad")
    )
    validation = write_csv(tmp_path / "validation.csv", sentences(18, 40))
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], encoder_only=True)]
    arguments += ["--train_file", train, "--validation_file", validation, "--teacher_column_name", "logit"]
    arguments += ["--ce_weight", 0, "--kl_weight", 1, "--max_steps", 2]
    run_here(*arguments, "--output_dir", tmp_path / "student")
    logits = torch.tensor(seen[0]["train_dataset"]["teacher_logits"][:])
    assert torch.equal(logits[:, 1], torch.tensor([score for _, score in rows]))
    assert torch.equal(logits[:, 0], -logits[:, 1])
    assert results(tmp_path / "student")["train_loss_kl"] > 0
    assert not read_record(tmp_path / "student")["teacher"]["results"]
    with pytest.raises(UserError, match="--teacher_column_name"):
        run_here(*arguments, "--teacher_cache", "false", "--output_dir", tmp_path / "live")
