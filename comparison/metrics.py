"""The metrics of a comparison, in two steps: sums over examples, and the score that the sums make.

    sums = accuracy.statistics(labels, predictions).sum(axis=0)     # (examples, k) -> (k,)
    accuracy.score(sums)                                            # 0.87

So the score on resampled examples needs no more than other weights of the sums (`comparison/bootstrap.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

NUM_BINS = 10
# In place of 0 or 1 where it is unknown whether an example has a label. It counts nowhere.
UNKNOWN = 2**16 - 1


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: in result files.
        title: in tables.
        statistics: takes labels and outputs of the examples, returns what is summed: `(examples, k)`.
        score: of sums `(..., k)`; returns `(...)`.
        lowest: score that is possible; the highest is 1.
    """

    name: str
    title: str
    statistics: Callable[[np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    lowest: float = 0.0

    def __call__(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        """Returns the score on all examples."""
        return float(self.score(self.statistics(labels, outputs).sum(axis=0)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient, 0 where nothing is divided."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


# ---- Classes ----


def _right(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns `(examples, 2)`: whether each prediction is right, and whether the example counts.

    Of several labels, all known must be right; an example of which none is known does not count.
    """
    known, equal = (part.reshape(len(labels), -1) for part in (labels != UNKNOWN, labels == predictions))
    counts = known.any(axis=1)
    return np.column_stack([(equal | ~known).all(axis=1) & counts, counts]).astype(float)


def _occurrences(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns `(examples, 3 x classes)`: what is true, what is predicted, and what is both."""
    if labels.ndim == 1:
        classes = np.arange(1 + max(labels.max(), predictions.max()))
        labels, predictions = labels[:, None] == classes, predictions[:, None] == classes
    else:
        known = labels != UNKNOWN
        labels, predictions = labels * known, predictions * known
    return np.hstack([labels, predictions, labels * predictions]).astype(float)


def _f1(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the F1 of every class, 0 where it does not occur, and whether it occurs."""
    true, predicted, both = np.split(sums, 3, axis=-1)
    return _ratio(2 * both, true + predicted), true + predicted > 0


def _mean_f1_of_occurring(sums: np.ndarray) -> np.ndarray:
    f1, occurs = _f1(sums)
    return f1.sum(axis=-1) / occurs.sum(axis=-1)


def _mean_f1(sums: np.ndarray) -> np.ndarray:
    return _f1(sums)[0].mean(axis=-1)


# ---- Numbers ----


def _moments(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    # A correlation does not depend on the origin. Near the mean, the sums of squares keep their precision.
    x, y = labels - labels.mean(), predictions - predictions.mean()
    return np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y])


def _moments_of_ranks(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return _moments(rankdata(labels), rankdata(predictions))


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Returns the correlation, 0 where one of the two is constant."""
    number, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    variances = (xx - x * x / number) * (yy - y * y / number)
    return _ratio(xy - x * y / number, np.sqrt(np.maximum(variances, 0)))


# ---- Calibration ----


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """Returns the number of the bin that each confidence falls into, from 0; all bins are equally wide."""
    return np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)


def _bins(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns `(examples, 3 x bins)`: predictions, summed confidence and right predictions in each bin of confidence.

    With one label an example, its confidence is the probability of the predicted class. With several, each label has a
    confidence of its own.
    """
    if labels.ndim == 1:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    else:
        confidence, right = np.maximum(probabilities, 1 - probabilities), (probabilities > 0.5) == labels
    confidence, right, known = (part.reshape(len(labels), -1) for part in (confidence, right, labels != UNKNOWN))
    is_in = known[..., None] & (confidence_bins(confidence)[..., None] == np.arange(NUM_BINS))
    parts = [is_in, is_in * confidence[..., None], is_in * right[..., None]]
    return np.hstack([part.sum(axis=1) for part in parts]).astype(float)


def _calibration_error(sums: np.ndarray) -> np.ndarray:
    number, confidence, right = np.split(sums, 3, axis=-1)
    return np.abs(confidence - right).sum(axis=-1) / number.sum(axis=-1)


# ---- The metrics ----

# Labels and predictions: class ids `(examples,)`, or 0/1 `(examples, labels)`, in labels also `UNKNOWN`.
accuracy = Metric("accuracy", "accuracy", _right, lambda sums: _ratio(sums[..., 0], sums[..., 1]))
# The mean over the classes that occur as label or prediction, as scikit-learn has it for one label an example.
macro_f1 = Metric("macro_f1", "macro-F1", _occurrences, _mean_f1_of_occurring)
# The mean over all labels, as scikit-learn has it for several labels an example.
macro_f1_of_labels = Metric("macro_f1", "macro-F1", _occurrences, _mean_f1)
# Labels and predictions: numbers `(examples,)`.
pearson = Metric("pearson", "Pearson correlation", _moments, _correlation, lowest=-1.0)
# On resampled examples, the ranks are those among all examples.
spearman = Metric("spearmanr", "Spearman correlation", _moments_of_ranks, _correlation, lowest=-1.0)
# Labels as for accuracy, and probabilities `(examples, classes)`. The mean distance between confidence and accuracy:
# Guo et al. 2017, "On Calibration of Modern Neural Networks" (https://arxiv.org/abs/1706.04599), equation 3.
calibration_error = Metric("calibration_error", "expected calibration error", _bins, _calibration_error)

# For each problem type: the metric of the table of layers, then the one of the table of methods.
METRICS: dict[str, Sequence[Metric]] = {
    SINGLE_LABEL: (accuracy, macro_f1),
    MULTI_LABEL: (accuracy, macro_f1_of_labels),
    REGRESSION: (pearson, spearman),
}
