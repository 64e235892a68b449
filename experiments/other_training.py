"""Ways of training students that the trainer does not have, for `student_recipes.py`."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from distill_trainer import DistillationTrainer


class Replacement:
    """A forward hook on a layer of a student: in training, the teacher's layers answer in its place at first.

    Xu et al. 2020, "BERT-of-Theseus" (https://arxiv.org/abs/2002.02925). The probability that the student's layer
    answers grows linearly with its calls, up to 1.

    Args:
        teacher_layers: what the layer replaces, in their order; they are not trained.
        calls: number of calls after which the student's layer always answers.
        start: the probability at the first call.
    """

    def __init__(self, teacher_layers: Sequence[nn.Module], calls: int, start: float = 0.3):
        self.teacher_layers, self.growth, self.rate = teacher_layers, (1 - start) / calls, start

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor | None:
        if not layer.training:
            return None
        by_student = torch.rand(()) < self.rate
        self.rate += self.growth
        if by_student:
            return None
        hidden, *others = args
        for teacher_layer in self.teacher_layers:
            hidden = teacher_layer(hidden, *others, **kwargs)
        return hidden


class RDropTrainer(DistillationTrainer):
    """Two passes of each batch, with other dropout, whose answers shall agree.

    Liang et al. 2021, "R-Drop" (https://arxiv.org/abs/2106.14448), with alpha = 2. For one process without gradient
    accumulation.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        first, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not model.training:
            return (first, outputs) if return_outputs else first
        second, other_outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        one, other = (log_softmax(logits.float(), dim=-1) for logits in (outputs.logits, other_outputs.logits))
        divergence = sum(
            kl_div(*pair, reduction="batchmean", log_target=True) for pair in ((one, other), (other, one))
        )
        loss = (first + second + divergence) / 2
        return (loss, outputs) if return_outputs else loss
