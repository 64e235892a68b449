"""What each threshold does to a label: precision, recall and F1 of a run.

precision, recall, f1 = threshold_statistics(predictions, 2, np.linspace(0, 1, 101))     # of the label with id 2
"""

import numpy as np
from sklearn.metrics import precision_recall_curve

from comparison.metrics import UNKNOWN
from comparison.predictions import Predictions

STATISTICS = ("precision", "recall", "F1")


def threshold_statistics(predictions: Predictions, label: int, thresholds: np.ndarray) -> np.ndarray | None:
    """Returns the `STATISTICS` of a label at each threshold, `(3, thresholds)`; `None` if no example has it.

    Args:
        predictions: of a run.
        label: its id.
        thresholds: probabilities from which an example has the label.
    """
    labels, probabilities = predictions.labels, predictions.probabilities[:, label]
    has_label, known = labels == label, np.full(len(labels), True)
    if labels.ndim == 2:
        has_label, known = labels[:, label] == 1, labels[:, label] != UNKNOWN
    if not has_label.any():
        return None
    precision, recall, occurring = precision_recall_curve(has_label[known], probabilities[known])
    points = np.searchsorted(occurring, thresholds)  # the last point is that of no example
    precision, recall = precision[points], recall[points]
    return np.array([precision, recall, 2 * precision * recall / np.maximum(precision + recall, 1e-12)])
