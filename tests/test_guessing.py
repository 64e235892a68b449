"""Tests of the warning about a teacher that is no better than guessing."""

import numpy as np
import pytest
from transformers import EvalPrediction

from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.labels import LabelMap
from text_data.metrics import build_compute_metrics
from training.guessing import warn_if_guessing

TWO, THREE = (LabelMap(SINGLE_LABEL, names) for names in (("no", "yes"), ("a", "b", "c")))
SEVERAL, SCORES = LabelMap(MULTI_LABEL, ("rude", "threat")), LabelMap(REGRESSION, ("score",))


@pytest.fixture
def log_of(caplog):
    """What is logged about a teacher with these logits for these labels."""

    def log(logits, label_ids, labels):
        caplog.clear()
        metrics = build_compute_metrics(labels, None)(EvalPrediction(np.asarray(logits), np.asarray(label_ids)))
        warn_if_guessing({f"eval_{name}": value for name, value in metrics.items()}, np.asarray(label_ids), labels)
        return caplog.text

    return log


def right(label_ids, num_labels):
    return np.eye(num_labels)[label_ids]


@pytest.mark.parametrize("rare", [1, 3, 50])
def test_a_perfect_teacher_is_not_guessing_however_rare_a_class_is(rare, log_of):
    ids = [1] * rare + [0] * (100 - rare)
    assert log_of(right(ids, 2), ids, TWO) == ""
    assert log_of(right(np.add(ids, 1), 3), np.add(ids, 1), THREE) == ""
    shares = np.array([[float(i), 1.0 - i] for i in ids])
    assert log_of(20 * shares - 10, shares, SEVERAL) == ""


def test_a_teacher_that_always_names_the_frequent_class_is_guessing(log_of):
    ids = np.array([1] * 5 + [0] * 95)
    assert "GUESSING" in log_of(right(0 * ids, 2), ids, TWO)
    assert "matthews_correlation 0.000" in log_of(right(0 * ids, 3), ids, THREE)
    assert "roc_auc 0.500" in log_of(np.full((100, 2), -1.0), right(ids, 2), SEVERAL)


@pytest.mark.parametrize("labels", [TWO, THREE, SEVERAL, SCORES])
def test_about_one_of_twenty_random_teachers_passes(labels, log_of):
    rng, passed = np.random.default_rng(0), 0
    for _ in range(40):
        ids = rng.choice(labels.num_labels, size=100, p=[0.03, 0.97] if labels.num_labels == 2 else None)
        targets = rng.random((100, 2)) < (0.03, 0.3) if labels == SEVERAL else ids
        targets = (
            rng.random(100) if labels == SCORES else np.asarray(targets, dtype="float32" if labels == SEVERAL else int)
        )
        passed += "GUESSING" not in log_of(rng.normal(size=(100, labels.num_labels)), targets, labels)
    assert passed <= 4


def test_a_teacher_with_the_labels_in_another_order_is_guessing(log_of):
    ids = np.array([0] * 60 + [1] * 40)
    assert "--label_order" in log_of(right(1 - ids, 2), ids, TWO)
    assert "pearson -1.000" in log_of(-np.linspace(0, 1, 100)[:, None], np.linspace(0, 1, 100), SCORES)


def test_a_teacher_that_ranks_a_rare_class_first_is_not_guessing_but_the_class_is_named(log_of):
    ids = np.array([1] * 5 + [0] * 95)
    log = log_of(right(0 * ids, 2) * 2 + right(ids, 2), ids, TWO)
    assert "GUESSING" not in log
    assert "none of the 5 validation examples of 'yes'" in log
    shares = right(ids, 2)
    log = log_of(shares - [0.5, 1.5], shares, SEVERAL)
    assert "GUESSING" not in log and "'threat'" in log and "'rude'" not in log


def test_unknown_labels_and_soft_labels_count_as_in_the_metrics(log_of):
    shares = np.array([[1.0, np.nan], [0.0, 1.0], [0.0, 0.0], [np.nan, 0.0]] * 10)
    assert log_of(np.nan_to_num(shares) - 0.5, shares, SEVERAL) == ""
    # Of three validation texts no label has both values: nothing was measured.
    assert log_of(-shares[1:2], shares[1:2], SEVERAL) == ""
    soft = np.array([[0.7, 0.3], [0.2, 0.8]] * 20)
    assert log_of(soft, soft, LabelMap(SINGLE_LABEL, ("no", "yes"), is_soft=True)) == ""


def test_constant_or_infinite_scores_are_guessing(log_of):
    for value in (1.0, np.inf):
        assert "GUESSING" in log_of(np.full((3, 1), value), [0.5, 1.0, 2.0], SCORES)
