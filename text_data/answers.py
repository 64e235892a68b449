"""What logits answer and what labels say, in the forms that can be compared, for each problem type.

answers_of(logits, SINGLE_LABEL)                                            # ids
hard_labels(label_array(tokenized["validation"]), SINGLE_LABEL)             # ids that the answers should be
probabilities_of(logits, MULTI_LABEL) >= thresholds                         # by label
label_indicators(label_array(tokenized["validation"]), MULTI_LABEL, 3)      # 1 or 0 by label
"""

import numpy as np
from datasets import Dataset
from scipy.special import expit, softmax

from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL


def probabilities_of(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Returns the probability of every label, `(..., num_labels)` as the logits; regression has none."""
    return expit(logits) if problem_type == MULTI_LABEL else softmax(logits, axis=-1)


def answers_of(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Returns what a model answers, in the form of `hard_labels`.

    Args:
        logits: `(examples, num_labels)`.

    Returns:
        Single-label: the id of the largest logit, of equal ones the first. Multi-label: whether the probability is
        above 0.5. Regression: the scores.
    """
    if problem_type == SINGLE_LABEL:
        return logits.argmax(axis=1)
    return logits > 0 if problem_type == MULTI_LABEL else logits[:, 0]


def label_array(tokenized: Dataset) -> np.ndarray:
    """Returns the labels of a split as a collator makes them: int64 ids, float32 shares or scores."""
    label_ids = np.array(tokenized["labels"])
    return label_ids.astype(np.float32) if label_ids.dtype.kind == "f" else label_ids


def hard_labels(labels: np.ndarray, problem_type: str) -> np.ndarray:
    """Returns labels as the metrics compare them with predictions.

    Args:
        labels: ids or shares `(examples,)` or `(examples, num_labels)`; NaN where a label is unknown.

    Returns:
        Single-label: the id of the largest share, of equal ones the last. Multi-label: 1 for shares from 0.5 on, else
        0, NaN where unknown. Regression: the scores.
    """
    labels = np.asarray(labels)
    if problem_type == SINGLE_LABEL and labels.ndim == 2:
        return labels.shape[1] - 1 - labels[:, ::-1].argmax(axis=1)
    if problem_type == MULTI_LABEL:
        return np.where(np.isnan(labels), np.nan, labels >= 0.5)
    return labels


def label_indicators(labels: np.ndarray, problem_type: str, num_labels: int) -> np.ndarray:
    """Returns for every label 1 where an example has it (see `hard_labels`), else 0, NaN where it is unknown.

    Args:
        labels: as for `hard_labels`, of one label an example or several.

    Returns:
        `(examples, num_labels)`.
    """
    labels = hard_labels(labels, problem_type)
    return labels if problem_type == MULTI_LABEL else np.eye(num_labels)[labels]
