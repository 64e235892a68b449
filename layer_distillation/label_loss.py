"""The loss on the labels of a batch: what `Trainer` would minimize, so that it can be mixed with other losses.

    label_loss = LabelLoss(student, teacher, "labels", compute_loss_func, label_smoothing)
    outputs = student(**inputs)                                # without `label_loss.withheld(batch)`
    label_loss.mean(outputs, batch, num_real=len(labels), is_training=True)

`Trainer` minimizes what the model returns as its loss, or what `compute_loss_func` makes of its outputs. The loss of
the classifiers of `transformers` is computed from their logits here, by `task_loss`: with the same value, in float32,
and also for labels that these classifiers cannot read, such as class probabilities.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_pt_utils import find_batch_size

from layer_distillation.errors import UserError
from layer_distillation.losses import task_loss
from layer_distillation.model_outputs import config_of, logits_of, loss_of, plain_model
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, infer_problem_type

IGNORED_LABEL = -100
# The classifiers of `transformers` whose loss `task_loss` computes, by the names that `transformers` gives the losses.
OF_SEQUENCES, OF_TOKENS = "ForSequenceClassification", "ForTokenClassification"


class LabelLoss:
    """The mean loss of the labels in a batch.

    Args:
        student, teacher: the teacher may be `None`.
        name: of the column with the labels of the task.
        compute_loss_func: as for `Trainer`: takes the outputs, the labels and `num_items_in_batch`.
        label_smoothing: share of the target mass that training spreads evenly over the classes. Like
            `compute_loss_func`, it is for a column of the name "labels", as in `Trainer`.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        name: str,
        compute_loss_func: Callable | None = None,
        label_smoothing: float = 0.0,
    ):
        self._name, self._compute_loss_func, self._label_smoothing = name, compute_loss_func, label_smoothing
        self._config = config_of(student)
        self._teacher_config = None if teacher is None else config_of(teacher)
        self._loss_type = standard_loss(student)
        self._predicts_next_token = type(plain_model(student)).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()

    def labels_of(self, batch: Mapping[str, Any]) -> Any:
        """Returns the labels of a batch, of any kind that the model reads; `None` if it has none.

        Those of a model that predicts the next token are moved to the positions of their predictions. Whole numbers
        that are no classes become floating-point numbers, or each of them would be counted as a class.
        """
        labels = batch.get(self._name)
        if not isinstance(labels, torch.Tensor):
            return labels
        if self._predicts_next_token:
            return nn.functional.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:]
        return labels.float() if self._stated_problem_type in (MULTI_LABEL, REGRESSION) else labels

    def num_examples(self, batch: Mapping[str, Any]) -> int:
        """Returns the number of examples in a batch: of its labels, of its `input_ids`, or as `Trainer` counts them.

        Other tensors need not have a row an example: position ids `(1, length)` serve all of them. Nor do labels in a
        list, such as the boxes of each image.
        """
        for tensor in (batch.get(self._name), batch.get("input_ids")):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 0:
                return len(tensor)
        return find_batch_size(batch)

    def num_items(self, batch: Mapping[str, Any], num_real: int) -> torch.Tensor:
        """Returns the number of labels that count among the first `num_real` examples (see `num_counted`)."""
        labels = self.labels_of(batch)
        return num_counted(labels[:num_real]) if isinstance(labels, torch.Tensor) else torch.tensor(num_real)

    def weight_in_evaluation(self, batch: Mapping[str, Any], num_real: int) -> torch.Tensor:
        """Returns the weight of the mean loss of a batch among those of an evaluation, 0 if none of its labels counts.

        Of classes it is the number of examples, as in `Trainer`, otherwise the number of those that count.
        """
        num_items, labels = self.num_items(batch, num_real), self.labels_of(batch)
        is_of_classes = isinstance(labels, torch.Tensor) and not labels.is_floating_point()
        return num_real * num_items.clamp_max(1) if is_of_classes else num_items

    def withheld(self, batch: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the columns that the model may not have, because its loss is not computed by the model."""
        if self._is_computed_here(batch):
            return "labels", self._name
        return ("labels",) if self._compute_loss_func is not None else ()

    def mean(self, outputs: Any, batch: Mapping[str, Any], num_real: int, is_training: bool) -> torch.Tensor | None:
        """Returns the mean over the labels that count (see `num_counted`).

        Args:
            outputs: of the model for the batch.
            num_real: examples at the start of the batch that count; a loss that is not computed here counts all.

        Returns:
            One number; `None` if there are no labels and the model has computed no loss. If no label counts, 0 in
            training, and in evaluation NaN as from PyTorch.

        Raises:
            UserError: the loss has to be computed from logits, and the model returns none.
        """
        labels = self.labels_of(batch)
        if self._compute_loss_func is not None:
            # Of this batch, for the mean of this batch: the caller knows the share of the batch. Counted as `Trainer`
            # counts, which takes each number for an item where labels are no classes.
            is_counted = "labels" in batch and isinstance(labels, torch.Tensor)
            num_items = (labels != IGNORED_LABEL).sum().clamp_min(1) if is_counted else None
            return self._compute_loss_func(outputs, batch.get("labels"), num_items_in_batch=num_items)
        loss = loss_of(outputs)
        if loss is not None and not self._is_computed_here(batch):
            loss = loss.mean()  # of several GPUs in one process
            return loss.where(self.num_items(batch, num_real).to(loss.device) > 0, 0.0) if is_training else loss
        if labels is None:
            return None
        logits = logits_of(outputs)
        if logits is None:
            found = ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise UserError(
                f"The student must return a `loss`, or `logits` in one tensor, found {found}. Name its outputs so."
            )
        problem_type = self.set_problem_type(outputs, labels)
        logits, labels = logits[:num_real], labels[:num_real]
        smoothing = self._label_smoothing if is_training and "labels" in batch else 0.0
        if problem_type == SINGLE_LABEL and not labels.is_floating_point():
            # One class an example or, as in token classification, a token.
            logits, labels = logits.flatten(0, -2), labels.flatten()
        losses, number = task_loss(logits, labels, problem_type, smoothing), num_counted(labels)
        return losses.sum() / (number.clamp_min(1) if is_training else number)

    def set_problem_type(self, outputs: Any, labels: Any) -> str:
        """Infers the problem type if neither the student's config nor the teacher's states it, and returns it.

        The config of a student with a standard loss keeps what is inferred from the first batch, as the heads of
        `transformers` keep it, so that a pipeline will know it too.

        Raises:
            UserError: float labels may be class probabilities or several labels, and only the model knows which.
        """
        if self._stated_problem_type is not None:
            return self._stated_problem_type
        labels = labels if isinstance(labels, torch.Tensor) else None
        inferred = infer_problem_type(logits_of(outputs).shape[-1], labels)
        if inferred == MULTI_LABEL and loss_of(outputs) is not None:
            raise UserError(
                "The labels are floating-point numbers, and the student computes its loss itself, so the form of the "
                "losses to the teacher is not known. Set `problem_type` in the student's config: "
                f"{SINGLE_LABEL!r} for class probabilities, {MULTI_LABEL!r} for several labels."
            )
        if self._loss_type is not None:
            self._config.problem_type = inferred
        return inferred

    @property
    def _stated_problem_type(self) -> str | None:
        """The problem type of the student's config, or of the teacher's; `None` if it has to be inferred."""
        config = self._teacher_config if self._config is None else self._config
        return None if config is None else config.problem_type

    def _is_computed_here(self, batch: Mapping[str, Any]) -> bool:
        """Returns whether the loss is computed from the logits, whatever the model returns as its loss."""
        if self._compute_loss_func is not None:
            return False
        if self._label_smoothing > 0 and "labels" in batch:
            return True
        if self._loss_type != OF_SEQUENCES or self._config.problem_type is not None:
            return self._loss_type is not None
        # A model whose loss is the standard one keeps the problem type that it infers from its labels. DeBERTa keeps
        # none, and takes several numbers an example for class probabilities. All agree on one class an example.
        labels = batch.get(self._name)
        return isinstance(labels, torch.Tensor) and labels.dim() == 1 and not labels.is_floating_point()


def standard_loss(model: nn.Module) -> str | None:
    """Returns the name of a model's loss, if it is that of the classifiers of `transformers`, otherwise `None`.

    A class with a `forward` of its own may compute any loss, and so may a model with another `loss_function`. BROS
    counts the first tokens of words alone.
    """
    model = plain_model(model)
    is_standard = (
        isinstance(model, PreTrainedModel)
        and model.loss_type in (OF_SEQUENCES, OF_TOKENS)
        and type(model).forward.__module__.startswith("transformers.")
        and "_loss_function" not in vars(model)
        and type(model).loss_function is PreTrainedModel.loss_function
        and model.config.model_type != "bros"
    )
    return model.loss_type if is_standard else None


def num_counted(labels: torch.Tensor) -> torch.Tensor:
    """Returns the number of classes that are not -100 or, if the labels are no classes, of examples.

    An example with several labels counts if one of them is known, that is, not NaN.
    """
    if not labels.is_floating_point():
        return (labels != IGNORED_LABEL).sum()
    is_known = ~labels.isnan()
    return (is_known if is_known.dim() < 2 else is_known.flatten(1).any(dim=1)).sum()


def mean_task_loss(logits: np.ndarray, labels: np.ndarray, problem_type: str) -> float:
    """Returns the mean of `task_loss` over the examples of a data set that count.

    Args:
        logits: `(examples, num_labels)`, float32.
        labels: as for `task_loss`; ids, or float32.
    """
    labels = torch.from_numpy(labels)
    return (task_loss(torch.from_numpy(logits), labels, problem_type).sum() / num_counted(labels)).item()


def counted_predictions(logits: torch.Tensor, labels: Any, num_real: int) -> slice | torch.Tensor:
    """Returns an index of the predictions that count: of real examples or, with a label a token, of labeled tokens.

    Raises:
        UserError: the predictions are of tokens, and there are no labels.
    """
    if logits.dim() == 2:
        return slice(num_real)
    if not isinstance(labels, torch.Tensor):
        raise UserError(
            "A model that predicts a label for every token needs `labels` in one tensor: -100 marks the tokens that "
            "do not count."
        )
    counted = labels != IGNORED_LABEL
    counted[num_real:] = False
    return counted
