"""Tests of `comparison.calibration` against its definition."""

import numpy as np
import pytest

from comparison.calibration import expected_calibration_error, reliability


def test_predictions_fall_into_bins_by_the_probability_of_the_predicted_class():
    probabilities = np.array([[0.55, 0.45], [0.41, 0.59], [0.97, 0.03], [0.0, 1.0]])
    bins = reliability(np.array([0, 0, 0, 1]), probabilities)
    assert bins.confidence == pytest.approx([0.57, 0.985])
    assert bins.accuracy == pytest.approx([0.5, 1.0])
    assert bins.share == pytest.approx([0.5, 0.5])
    assert expected_calibration_error(bins) == pytest.approx(0.5 * 0.07 + 0.5 * 0.015)


def test_the_error_vanishes_for_confidence_that_is_right_as_often_as_it_says():
    draws = np.random.default_rng(0)
    confidence = draws.uniform(0.5, 1, 200_000)
    labels = (draws.random(200_000) > confidence).astype(int)  # class 0 with the given probability
    calibrated = np.stack([confidence, 1 - confidence], axis=1)
    assert expected_calibration_error(reliability(labels, calibrated)) < 0.005
    overconfident = calibrated**4 / (calibrated**4).sum(axis=1, keepdims=True)
    assert expected_calibration_error(reliability(labels, overconfident)) > 0.1


def test_the_error_is_at_most_the_confidence_of_predictions_that_are_all_wrong():
    probabilities = np.tile([0.9, 0.1], (10, 1))
    assert expected_calibration_error(reliability(np.ones(10, dtype=int), probabilities)) == pytest.approx(0.9)
