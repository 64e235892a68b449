"""Calibration: whether a classifier is right as often as its confidence says.

bins = reliability(labels, probabilities)
bins.accuracy - bins.confidence    # 0: of the predictions made with 80% confidence, 80% are right
"""

from dataclasses import dataclass

import numpy as np

from comparison.metrics import NUM_BINS


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


def reliability(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
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
