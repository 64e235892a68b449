"""Whether a teacher is better than guessing, judged by every class.

warn_if_guessing(metrics, label_ids, labels)    # logs a warning, or nothing
"""

import logging
import math
from collections.abc import Mapping

import numpy as np

from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.answers import hard_labels
from text_data.labels import LabelMap

logger = logging.getLogger(__name__)


def warn_if_guessing(metrics: Mapping[str, float], label_ids: np.ndarray, labels: LabelMap) -> None:
    """Logs a loud warning when a teacher does no better than guessing, and one for each class that it never finds.

    Accuracy would call a teacher that always names the most frequent class good, and one that finds a rare class no
    better than that. So a classifier must exceed by two standard errors what a guess reaches in either of two measures
    that weigh classes alike: the Matthews correlation of its predictions with the labels, or the area under the ROC
    curve of its scores. A regression's correlation must.

    Args:
        metrics: of the teacher on a validation split, named `eval_{metric}`.
        label_ids: the split's labels: ids, shares or scores.
    """
    references = hard_labels(label_ids, labels.problem_type)
    guesses = _guesses(references, labels)
    if not guesses:  # no label has both values
        return
    measured = []
    for name, (chance, error) in guesses.items():
        value = metrics.get(f"eval_{name}", math.nan)  # constant predictions have no correlation
        if value > chance + 2 * error:
            _warn_of_missed_classes(metrics, references, labels)
            return
        measured.append(f"{name} {value:.3f}, where guessing gives {chance:.3f} (+- {2 * error:.3f})")
    rule = "!" * 100
    logger.warning(
        f"\n{rule}\nTHE TEACHER IS NO BETTER THAN GUESSING on {len(references)} validation examples: "
        f"{'; '.join(measured)}.\nA student would learn nothing from it. Is its head trained for this task? Are the "
        "labels in its order (--label_order)? Was it\ntrained long enough (--teacher_num_train_epochs)?\n"
        f"{rule}"
    )


def _guesses(references: np.ndarray, labels: LabelMap) -> dict[str, tuple[float, float]]:
    """The value and the standard error of the measures of a guess, which knows nothing of the labels."""
    of_correlation = 0.0, 1 / math.sqrt(max(len(references) - 1, 1))
    if labels.problem_type == REGRESSION:
        return {"pearson": of_correlation}
    # A column for each label that is ranked, as in the metrics.
    columns = references.T if labels.problem_type == MULTI_LABEL else [references] * (labels.num_labels == 2)
    errors = [error for column in columns if (error := _auc_error(column[~np.isnan(column)])) is not None]
    guesses = {"roc_auc": (0.5, float(np.mean(errors)))} if errors else {}
    return guesses if labels.problem_type == MULTI_LABEL else {"matthews_correlation": of_correlation, **guesses}


def _auc_error(column: np.ndarray) -> float | None:
    """The standard error of the area under the ROC curve of random scores (Mann and Whitney 1947).

    With one positive example the area is uniform: it exceeds 0.975 in 2.5% of the cases, where the normal
    approximation has a number above 1.
    """
    positives = column.sum()
    pairs = positives * (len(column) - positives)
    return min(math.sqrt((len(column) + 1) / (12 * pairs)), (0.975 - 0.5) / 2) if pairs else None


def _warn_of_missed_classes(metrics: Mapping[str, float], references: np.ndarray, labels: LabelMap) -> None:
    if labels.problem_type == REGRESSION:
        return
    for index, name in enumerate(labels.names):
        found = references == index if labels.problem_type == SINGLE_LABEL else references[:, index] == 1
        if found.any() and metrics.get(f"eval_f1_{name}") == 0:
            logger.warning(
                f"The teacher recognizes none of the {int(found.sum())} validation examples of {name!r}. A "
                "student cannot learn this label from it. More training examples of the label help, or more "
                "--teacher_num_train_epochs."
            )
