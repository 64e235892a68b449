"""Chooses the inner neurons that a student keeps: those that matter most to the logits of its teacher.

    python run_distillation.py --layer_strategy narrow --student_intermediate_size 384 ...

importance = neuron_importance(teacher, dataset, collator)
neurons = most_important(importance, width=384)
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, set_seed

from layer_distillation.errors import UserError
from layer_distillation.inner_neurons import inner_projections, inner_width
from layer_distillation.model_outputs import with_model_inputs
from training.arguments import StudentArguments
from training.run import Run

logger = logging.getLogger(__name__)

# Training examples that the importance is measured on.
NUM_EXAMPLES = 2000
Neurons = tuple[tuple[int, ...], ...]


def choose_neurons(source: PreTrainedModel, student_args: StudentArguments, run: Run) -> tuple[Neurons, dict]:
    """Chooses the inner neurons that the student keeps of each layer, the same ones on every process.

    Args:
        source: the model to choose from, on the training device.
        run: the run that follows; its training texts and its seed are used.

    Returns:
        The 0-based neurons of each layer, and what the choice rests on, for the record of the run.

    Raises:
        UserError: as `kept_width`.
    """
    width, inputs = kept_width(source, student_args), run.inputs
    examples = inputs.training_sample(NUM_EXAMPLES, run.args.seed)
    set_seed(run.args.seed)
    importance = neuron_importance(source, examples, inputs.collator, run.args.per_device_train_batch_size)
    (importance,) = broadcast_object_list([importance])  # other devices round otherwise
    kept = most_important(importance, width)
    shares = [values[list(numbers)].sum() / values.sum() for values, numbers in zip(importance, kept, strict=True)]
    by_layer = ", ".join(f"{layer}: {share:.0%}" for layer, share in enumerate(shares, start=1))
    logger.info(f"Each layer keeps {width} of {importance.shape[1]} inner neurons. Share of importance: {by_layer}")
    return kept, {"examples": len(examples), "share_of_importance": [float(share) for share in shares]}


def kept_width(source: PreTrainedModel, student_args: StudentArguments) -> int:
    """Returns the number of inner neurons that each layer of the student keeps: a quarter where it is not given.

    Raises:
        UserError: the source has fewer inner neurons, or they are not found (see `inner_projections`).
    """
    all_neurons, width = inner_width(source), student_args.student_intermediate_size
    if width is None:
        width = max(all_neurons // 4, 1)
    if width > all_neurons:
        raise UserError(
            f"--student_intermediate_size must be at most {all_neurons}, the number of inner neurons of the teacher's "
            f"layers, found {width}."
        )
    return width


def neuron_importance(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64
) -> np.ndarray:
    """Returns how much the logits would change, to first order, if one inner neuron were left out.

    For a neuron with the outputs a_t at the tokens t, it is the mean over the examples of the sum over the logits z_k
    of (sum_t a_t dz_k/da_t)². No label is read. It follows Molchanov et al. 2019, "Importance Estimation for Neural
    Network Pruning" (https://arxiv.org/abs/1906.10771), whose measure is the same for the loss. The sum over the
    logits is estimated with one random sign for each logit and example (Hutchinson 1990), so that one backward pass a
    batch is enough; the signs are drawn with torch's global seed.

    Args:
        model: in `eval()` mode.
        dataset: tokenized examples.
        collator: pads a list of examples into a batch of tensors.
        batch_size: examples in a forward and backward pass.

    Returns:
        `(layers, neurons)`, float32.

    Raises:
        UserError: as `inner_projections`.
    """
    projections = inner_projections(model)
    inner: list[torch.Tensor] = []

    def keep_input(_, inputs: tuple[torch.Tensor, ...]) -> None:
        inner.append(inputs[0])

    hooks = [projection.register_forward_pre_hook(keep_input) for projection in projections]
    sums = [0.0] * len(projections)
    try:
        for batch in DataLoader(with_model_inputs(dataset), batch_size=batch_size, collate_fn=collator):
            inner.clear()
            logits = model(**batch.to(model.device)).logits
            signs = torch.randint(0, 2, logits.shape, device=logits.device) * 2 - 1
            gradients = torch.autograd.grad((signs * logits).sum(), inner)
            for layer, (outputs, gradient) in enumerate(zip(inner, gradients, strict=True)):
                changes = (outputs.detach() * gradient).flatten(1, -2).sum(dim=1)
                sums[layer] = sums[layer] + changes.square().sum(dim=0)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(sums).float().cpu().numpy() / len(dataset)


def most_important(importance: np.ndarray, width: int) -> Neurons:
    """Returns, for each layer, the 0-based numbers of the `width` most important neurons, increasing."""
    kept = np.sort(np.argsort(-importance, axis=1, kind="stable")[:, :width], axis=1)
    return tuple(tuple(map(int, numbers)) for numbers in kept)
