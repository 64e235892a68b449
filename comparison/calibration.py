"""Calibration: whether a classifier is right as often as its confidence says.

bins = reliability(labels, probabilities)
expected_calibration_error(bins)      # 0: of the predictions made with 80% confidence, 80% are right
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """Predictions, sorted by confidence into bins of equal width; empty bins are left out.

    Attributes:
        confidence: mean confidence in each bin, `(bins,)`.
        accuracy: share of right predictions in each bin, `(bins,)`.
        share: share of all predictions in each bin, `(bins,)`.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 10) -> Reliability:
    """Sorts predictions into bins by their confidence, which is the probability of the predicted class.

    Args:
        labels: class ids `(examples,)`.
        probabilities: `(examples, classes)`.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(which, minlength=num_bins)
    filled = count > 0
    return Reliability(
        confidence=np.bincount(which, confidence, num_bins)[filled] / count[filled],
        accuracy=np.bincount(which, right, num_bins)[filled] / count[filled],
        share=count[filled] / len(labels),
    )


def expected_calibration_error(bins: Reliability) -> float:
    """Returns the mean distance between confidence and accuracy over all predictions, in [0, 1].

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (https://arxiv.org/abs/1706.04599), equation 3.
    """
    return float(np.sum(bins.share * np.abs(bins.accuracy - bins.confidence)))
