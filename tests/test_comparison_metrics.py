"""Tests of `comparison.metrics` and `comparison.predictions` against scikit-learn, scipy and definitions."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from comparison.bootstrap import bootstrap
from comparison.metrics import accuracy, calibration_error, macro_f1, macro_f1_of_labels, pearson, spearman
from comparison.predictions import Predictions
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

DRAWS = np.random.default_rng(0)
CLASSES, OTHER_CLASSES = DRAWS.integers(0, 4, (2, 60))
LABELS, OTHER_LABELS = DRAWS.integers(0, 2, (2, 60, 3))
NUMBERS = 1e4 + DRAWS.normal(size=60)  # far from 0, where sums of squares lose digits
OTHER_NUMBERS = NUMBERS + DRAWS.normal(size=60)


@pytest.mark.parametrize(
    ("metric", "reference", "labels", "predictions"),
    [
        (accuracy, accuracy_score, CLASSES, OTHER_CLASSES),
        (accuracy, accuracy_score, LABELS, OTHER_LABELS),
        (macro_f1, lambda y, p: f1_score(y, p, average="macro", zero_division=0), CLASSES, OTHER_CLASSES),
        (macro_f1_of_labels, lambda y, p: f1_score(y, p, average="macro", zero_division=0), LABELS, OTHER_LABELS),
        (pearson, lambda y, p: pearsonr(y, p).statistic, NUMBERS, OTHER_NUMBERS),
    ],
)
def test_the_scores_are_those_of_the_libraries_on_all_and_on_resampled_examples(
    metric, reference, labels, predictions
):
    scores = bootstrap(metric, labels, predictions[None], num_resamples=5, seed=3)
    assert scores.by_seed == pytest.approx([reference(labels, predictions)])
    weights = np.random.default_rng(3).multinomial(60, np.full(60, 1 / 60), size=5)
    for weight, (value,) in zip(weights, scores.resampled, strict=True):
        drawn = np.repeat(np.arange(60), weight)
        assert value == pytest.approx(reference(labels[drawn], predictions[drawn]))


def test_the_rank_correlation_is_that_of_scipy_also_with_ties():
    rounded = np.round(OTHER_NUMBERS)
    assert spearman(NUMBERS, rounded) == pytest.approx(spearmanr(NUMBERS, rounded).statistic)


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_constant_predictions_have_no_correlation(metric):
    assert metric(NUMBERS, np.full(60, 3.0)) == 0


# ---- Calibration ----


def test_the_calibration_error_is_the_mean_distance_between_confidence_and_accuracy():
    probabilities = np.array([[0.55, 0.45], [0.41, 0.59], [0.97, 0.03], [0.0, 1.0]])
    assert calibration_error(np.array([0, 0, 0, 1]), probabilities) == pytest.approx(0.5 * 0.07 + 0.5 * 0.015)


def test_the_calibration_error_of_several_labels_is_over_single_decisions():
    labels, probabilities = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.2], [0.8, 0.1]])
    # Confidence 0.9 (right), 0.8 (right), 0.8 (wrong), 0.9 (right).
    assert calibration_error(labels, probabilities) == pytest.approx((abs(1.6 - 1) + abs(1.8 - 2)) / 4)


def test_the_calibration_error_vanishes_for_confidence_that_is_right_as_often_as_it_says():
    draws = np.random.default_rng(0)
    confidence = draws.uniform(0.5, 1, 200_000)
    labels = (draws.random(200_000) > confidence).astype(int)  # class 0 with the given probability
    calibrated = np.stack([confidence, 1 - confidence], axis=1)
    assert calibration_error(labels, calibrated) < 0.005
    overconfident = calibrated**4 / (calibrated**4).sum(axis=1, keepdims=True)
    assert calibration_error(labels, overconfident) > 0.1


# ---- Unknown labels ----


def test_labels_that_are_unknown_count_nowhere():
    draws = np.random.default_rng(0)
    labels, logits = draws.integers(0, 2, (40, 3)).astype(float), draws.normal(size=(40, 3))
    labels[draws.random((40, 3)) < 0.3] = np.nan
    labels[:5] = np.nan
    predictions, known = Predictions.from_logits(logits, labels, MULTI_LABEL), ~np.isnan(labels)
    is_right = [all((logits[i] > 0)[known[i]] == labels[i][known[i]]) for i in range(40) if known[i].any()]
    assert accuracy(predictions.labels, predictions.answers) == pytest.approx(np.mean(is_right))
    columns = [(labels[known[:, i], i], logits[known[:, i], i] > 0) for i in range(3)]
    expected = np.mean([f1_score(true, answers) for true, answers in columns])
    assert macro_f1_of_labels(predictions.labels, predictions.answers) == pytest.approx(expected)
    # The same decisions, one an example, have the same calibration error.
    true, probabilities = predictions.by_confidence
    assert len(true) == known.sum()
    assert calibration_error(true, probabilities) == pytest.approx(
        calibration_error(predictions.labels, predictions.probabilities)
    )


# ---- Packed predictions ----


@pytest.mark.parametrize(
    ("problem_type", "labels", "shape"),
    [(SINGLE_LABEL, CLASSES, (60, 4)), (MULTI_LABEL, LABELS, (60, 3)), (REGRESSION, NUMBERS, (60, 1))],
)
def test_packed_predictions_are_read_as_they_were_written(tmp_path, problem_type, labels, shape):
    logits = DRAWS.normal(size=shape) * 5
    written = Predictions.from_logits(logits, labels, problem_type)
    written.write(tmp_path / "run.npz")
    read = Predictions.read(tmp_path / "run.npz")
    assert read.problem_type == problem_type
    for name in ("labels", "answers", "probabilities"):
        assert np.array_equal(getattr(read, name), getattr(written, name)), name
    expected = {SINGLE_LABEL: logits.argmax(axis=1), MULTI_LABEL: logits > 0, REGRESSION: logits[:, 0]}
    assert read.answers == pytest.approx(expected[problem_type].astype(float))


def test_an_answer_is_that_of_the_logits_where_rounded_probabilities_are_equal():
    logits = np.array([[1e-6, 0.0], [0.0, 1e-6]])
    predictions = Predictions.from_logits(logits, np.array([0, 1]), SINGLE_LABEL)
    assert predictions.probabilities.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert predictions.answers.tolist() == [0, 1]


def test_thousands_of_predictions_are_small_enough_to_be_committed(tmp_path):
    logits, labels = DRAWS.normal(size=(10_000, 3)) * 4, DRAWS.integers(0, 3, 10_000)
    Predictions.from_logits(logits, labels, SINGLE_LABEL).write(tmp_path / "run.npz")
    assert (tmp_path / "run.npz").stat().st_size < 1e5
