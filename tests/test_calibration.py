"""Tests of `comparison.calibration` against its definition."""

import numpy as np
import pytest

from comparison.calibration import reliability


def test_predictions_fall_into_bins_by_the_probability_of_the_predicted_class():
    probabilities = np.array([[0.55, 0.45], [0.41, 0.59], [0.97, 0.03], [0.0, 1.0]])
    bins = reliability(np.array([0, 0, 0, 1]), probabilities)
    assert bins.confidence == pytest.approx([0.57, 0.985])
    assert bins.accuracy == pytest.approx([0.5, 1.0])
    assert bins.share == pytest.approx([0.5, 0.5])
