"""The loss on the labels of a batch: what `Trainer` would minimize, so that it can be mixed with other losses.

    label_loss = LabelLoss(student, compute_loss_func, label_smoothing, problem_type_of)
    outputs = student(**inputs)                                         # with labels, if `label_loss.of_the_model`
    label_loss.mean(outputs, labels, num_real=len(labels), is_training=True)

`Trainer` minimizes what the model returns as its loss, or what `compute_loss_func` makes of its outputs. The loss of
the classifiers of `transformers` is computed from their logits here, by `task_loss`: with the same value, in float32,
and also for labels that these classifiers cannot read, such as class probabilities.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.losses import task_loss
from layer_distillation.model_outputs import logits_of, loss_of, plain_model
from layer_distillation.problem_types import SINGLE_LABEL

IGNORED_LABEL = -100
# The classifiers of `transformers` whose loss `task_loss` computes, by the names that `transformers` gives the losses.
STANDARD_LOSSES = ("ForSequenceClassification", "ForTokenClassification")


class LabelLoss:
    """The mean loss of the labels in a batch.

    Args:
        model: the student.
        compute_loss_func: as for `Trainer`: takes the outputs, the labels and `num_items_in_batch`.
        label_smoothing: share of the target mass that training spreads evenly over the classes.
        problem_type_of: returns the problem type of logits and labels that need one.

    Attributes:
        of_the_model: whether the model computes the loss, and so has to be given the labels.
    """

    def __init__(
        self,
        model: nn.Module,
        compute_loss_func: Callable | None,
        label_smoothing: float,
        problem_type_of: Callable[[torch.Tensor, torch.Tensor], str],
    ):
        self._compute_loss_func, self._label_smoothing = compute_loss_func, label_smoothing
        self._problem_type_of = problem_type_of
        self.of_the_model = compute_loss_func is None and label_smoothing == 0 and not has_standard_loss(model)

    def mean(self, outputs: Any, labels: torch.Tensor | None, num_real: int, is_training: bool) -> torch.Tensor | None:
        """Returns the mean over the labels that count: those of single-label problems that are not -100.

        Args:
            outputs: of the model for a batch.
            labels: of the batch, of any shape that the model or `compute_loss_func` reads; `None` if it has none.
            num_real: examples at the start of the batch that count; a loss that is not computed here counts all.

        Returns:
            One number; `None` if there are no labels and the model has computed no loss. If no label counts, 0 in
            training, and in evaluation NaN as from PyTorch, which `Trainer` can leave out of a mean.

        Raises:
            UserError: the loss has to be computed from logits, and the model returns none.
        """
        if self._compute_loss_func is not None:
            # Of this batch, for the mean of this batch: the caller knows the share of the batch. Counted as `Trainer`
            # counts, which takes each number for an item where labels are no classes.
            num_items = None if labels is None else (labels != IGNORED_LABEL).sum().clamp_min(1)
            return self._compute_loss_func(outputs, labels, num_items_in_batch=num_items)
        loss = loss_of(outputs)
        if loss is not None:
            return loss.mean()  # of several GPUs in one process
        if labels is None:
            return None
        logits = logits_of(outputs)
        if logits is None:
            raise UserError(
                f"The student must return a `loss` or `logits`, found {', '.join(outputs)}. Name its outputs so."
            )
        problem_type, logits, labels = self._problem_type_of(logits, labels), logits[:num_real], labels[:num_real]
        smoothing = self._label_smoothing if is_training else 0.0
        if problem_type == SINGLE_LABEL and not labels.is_floating_point():
            # One class an example or, as in token classification, a token.
            logits, labels = logits.flatten(0, -2), labels.flatten()
        losses = task_loss(logits, labels, problem_type, smoothing)
        num_items = num_items_in(labels, num_real) if problem_type == SINGLE_LABEL else torch.tensor(num_real)
        return losses.sum() / (num_items.clamp_min(1) if is_training else num_items)


def has_standard_loss(model: nn.Module) -> bool:
    """Returns whether the loss of a model is that of the classifiers of `transformers`.

    A class with a `forward` of its own may compute any loss, and so may a model with another `loss_function`. BROS
    counts the first tokens of words alone.
    """
    model = plain_model(model)
    return (
        isinstance(model, PreTrainedModel)
        and model.loss_type in STANDARD_LOSSES
        and type(model).forward.__module__.startswith("transformers.")
        and "_loss_function" not in vars(model)
        and type(model).loss_function is PreTrainedModel.loss_function
        and model.config.model_type != "bros"
    )


def num_items_in(labels: torch.Tensor | None, num_examples: int) -> torch.Tensor:
    """Returns the number of classes that are not -100, or of examples if the labels are no classes or missing."""
    if labels is None or labels.is_floating_point():
        return torch.tensor(num_examples)
    return (labels != IGNORED_LABEL).sum()


def counted_predictions(logits: torch.Tensor, labels: torch.Tensor | None, num_real: int) -> slice | torch.Tensor:
    """Returns an index of the predictions that count: of real examples or, with a label a token, of labeled tokens.

    Raises:
        UserError: the predictions are of tokens, and there are no labels.
    """
    if logits.dim() == 2:
        return slice(num_real)
    if labels is None:
        raise UserError(
            "A model that predicts a label for every token needs `labels`: -100 marks the tokens that do not count."
        )
    counted = labels != IGNORED_LABEL
    counted[num_real:] = False
    return counted
