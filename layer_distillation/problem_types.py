"""The problem types of a classifier, as `transformers` configs name them, and how one is inferred."""

import torch

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def infer_problem_type(num_labels: int, labels: torch.Tensor | None) -> str:
    """The problem type that `transformers` heads infer when `config.problem_type` is unset.

    One output is a regression, floating-point labels are multi-label targets, integer labels (or none) mean classes.
    """
    if num_labels == 1:
        return REGRESSION
    return MULTI_LABEL if labels is not None and labels.is_floating_point() else SINGLE_LABEL
