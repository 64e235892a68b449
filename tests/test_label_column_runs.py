"""Runs on data with a column for each label, from the file to the trained model."""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from tests.script_runs import predictions, read_record, results, run_here
from tests.test_teacher import save_checkpoint
from tests.tiny_models import VOCAB_SIZE

DATA = Path(__file__).parent.parent / "data" / "label_columns"
JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
CIVIL_COMMENTS = ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit")
LENGTH = ("--num_train_epochs", 1, "--teacher_num_train_epochs", 1, "--layers", 1, "--save_strategy", "no")


def rows_of(name):
    with open(DATA / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder that knows the most frequent words of the sample."""
    words = Counter(word for row in rows_of("civil_comments") for word in row["text"].split())
    words = [word for word, _ in words.most_common(VOCAB_SIZE - 4)]
    return save_checkpoint(tmp_path_factory.mktemp("encoder"), encoder_only=True, words=words)


def run(encoder, name, folder, *arguments):
    path = DATA / f"{name}.csv"
    files = ("--train_file", path, "--validation_file", path)
    run_here("--teacher_name_or_path", encoder, *files, "--output_dir", folder, *LENGTH, *arguments)
    return np.array(
        [[float(v) for k, v in row.items() if k[:6] == "logit_"] for row in predictions(folder, "validation")]
    )


@pytest.mark.parametrize(("name", "columns"), [("jigsaw", JIGSAW), ("civil_comments", CIVIL_COMMENTS)])
def test_columns_of_labels_train_a_multi_label_model_whose_scores_recompute(name, columns, encoder, tmp_path):
    logits = run(encoder, name, tmp_path, "--label_column_name", ",".join(columns))
    config = results(tmp_path, "config")
    assert config["problem_type"] == MULTI_LABEL
    assert tuple(config["id2label"].values()) == columns == tuple(read_record(tmp_path)["data"]["labels"])

    shares = np.array([[float(row[column] or "nan") for column in columns] for row in rows_of(name)])
    known = ~np.isnan(shares)
    assert known.all() == (name == "jigsaw")
    losses = np.logaddexp(0, logits) - np.nan_to_num(shares) * logits
    scores = results(tmp_path, "eval_results")
    assert scores["eval_loss"] == pytest.approx(
        np.mean([losses[i][known[i]].mean() for i in range(len(losses))]), rel=1e-4
    )
    for i, column in enumerate(columns[:3]):
        rows = known[:, i]
        expected = f1_score(shares[rows, i] >= 0.5, logits[rows, i] > 0, zero_division=0)
        assert scores[f"eval_f1_{column}"] == pytest.approx(expected)
    assert math.isfinite(results(tmp_path, "train_results")["train_loss"])
    first = predictions(tmp_path, "validation")[2]["label"]
    assert first == ("toxic;insult" if name == "jigsaw" else "toxicity;insult")


def test_shares_of_one_label_train_a_soft_binary_model_whose_loss_recomputes(encoder, tmp_path):
    arguments = ("--label_column_name", "toxicity", "--problem_type", SINGLE_LABEL)
    logits = run(encoder, "civil_comments", tmp_path, *arguments)
    assert list(results(tmp_path, "config")["id2label"].values()) == ["not_toxicity", "toxicity"]
    shares = np.array([float(row["toxicity"]) for row in rows_of("civil_comments")])
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    expected = -((1 - shares) * log_probabilities[:, 0] + shares * log_probabilities[:, 1]).mean()
    scores = results(tmp_path, "eval_results")
    assert scores["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert scores["eval_accuracy"] == pytest.approx(((logits[:, 1] > logits[:, 0]) == (shares >= 0.5)).mean())
