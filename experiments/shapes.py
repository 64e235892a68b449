"""Weights of students, made in other ways than by `layer_mapping.py`, for `better_students.py`."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.inner_neurons import inner_projections
from layer_distillation.model_outputs import MODEL_INPUTS


def averaged(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """Returns a model whose weights are the means of the weights of models of one shape."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]})
    return mean


def importance_to_loss(teacher: PreTrainedModel, examples: Dataset, collator: Callable) -> np.ndarray:
    """Returns the mean, over examples, of the squared change of the loss to first order without an inner neuron.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning". `training.neuron_choice` does the same
    for the logits, and reads no labels.

    Returns:
        `(layers, neurons)`.
    """
    projections = inner_projections(teacher)
    inputs: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        projection.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]}))
        for projection in projections
    ]
    sums = [torch.zeros(projection.in_features) for projection in projections]
    columns = [*MODEL_INPUTS, "labels"]
    for start in range(0, len(examples), 32):
        batch = collator(examples.select_columns(columns)[start : start + 32])
        # Of the sum over examples: the gradient at each example's neurons is that of its own loss.
        loss = teacher.eval()(**batch).loss * len(batch["labels"])
        values = [inputs[projection] for projection in projections]
        for total, value, gradient in zip(sums, values, torch.autograd.grad(loss, values), strict=True):
            total += (value.detach() * gradient).sum(dim=1).square().sum(dim=0)
    for hook in hooks:
        hook.remove()
    return torch.stack(sums).numpy() / len(examples)
