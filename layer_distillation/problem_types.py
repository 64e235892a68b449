"""The problem types of a classifier, as `transformers` configs name them, and how one is inferred.

infer_problem_type(num_labels=3, labels=torch.tensor([0, 2]))    # SINGLE_LABEL
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reading data needs the names, and no torch
    import torch

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def infer_problem_type(num_labels: int, labels: torch.Tensor | None) -> str:
    """Returns the problem type that `transformers` heads infer when `config.problem_type` is unset.

    A single output means regression, floating-point labels mean several labels an example, and integer labels or none
    mean one label an example.

    Args:
        labels: `(batch,)` or `(batch, num_labels)`.
    """
    if num_labels == 1:
        return REGRESSION
    return MULTI_LABEL if labels is not None and labels.is_floating_point() else SINGLE_LABEL
