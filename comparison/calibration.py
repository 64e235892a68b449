"""Calibration: whether a classifier is right as often as its confidence says.

bins = reliability(labels, probabilities)
bins.accuracy - bins.confidence    # 0: of the predictions made with 80% confidence, 80% are right
"""

from dataclasses import dataclass

import numpy as np

from comparison.metrics import NUM_BINS, confidence_bins


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


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """Sorts predictions into bins by their confidence, which is the probability of the predicted class.

    Args:
        labels: class ids `(examples,)`.
        probabilities: `(examples, classes)`.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    which = confidence_bins(confidence)
    count = np.bincount(which, minlength=NUM_BINS)
    filled = count > 0
    return Reliability(
        confidence=np.bincount(which, confidence, NUM_BINS)[filled] / count[filled],
        accuracy=np.bincount(which, right, NUM_BINS)[filled] / count[filled],
        share=count[filled] / len(labels),
    )
