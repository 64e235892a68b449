"""Measures which layers of two models represent examples alike, and how much each layer of a model changes them.

similarity = cka_matrix(layer_features(teacher, dataset, collator), layer_features(student, dataset, collator))
changes = layer_changes(teacher, dataset, collator)["block_influence"]
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.model_outputs import longest_first, outputs_of_batches


@torch.inference_mode()
def layer_features(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64, bf16: bool = False
) -> np.ndarray:
    """Returns the mean over the tokens of each layer's output: float32 `(layers, examples, hidden)`, layer 1 first.

    Args:
        model: with any head, in `eval()` mode.
        dataset: tokenized examples.
        collator: pads a list of examples into a batch of tensors, with an `attention_mask`.
        batch_size: examples in a forward pass.
        bf16: whether the forward pass is autocast to bfloat16.
    """
    order = longest_first(dataset)  # for little padding
    batches = _states_of_batches(model, dataset, order, collator, batch_size, bf16)
    means = [_token_means(torch.stack(states[1:]), is_token).float().cpu() for states, is_token in batches]
    return torch.cat(means, dim=1).numpy()[:, np.argsort(order)]


@torch.inference_mode()
def sentence_features(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64
) -> np.ndarray:
    """Returns the mean over the tokens of what an encoder gives to its head: float32 `(examples, hidden)`.

    Args:
        model, dataset, collator, batch_size: as for `layer_features`.
    """
    order = longest_first(dataset)
    batches = outputs_of_batches(model, dataset, order, collator, batch_size, output_hidden_states=True)
    means = [
        _token_means(outputs.hidden_states[-1][None], batch["attention_mask"])[0].float().cpu()
        for _, batch, outputs in batches
    ]
    return torch.cat(means).numpy()[np.argsort(order)]


@torch.inference_mode()
def layer_changes(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Measures how much each layer changes what passes through it, in one pass over the examples.

    Args:
        model, dataset, collator, batch_size: as for `layer_features`.

    Returns:
        Two measures, `(layers,)` each, layer 1 first; 0 for a layer that returns its input.

        `cka`: 1 - linear CKA (see `linear_cka`) of the layer's input and output, both averaged over the tokens.

        `block_influence`: 1 - mean over all tokens t of cos(x_t, y_t), for the layer's input x and output y. Men et
        al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect"
        (https://arxiv.org/abs/2403.03853).
    """
    features, cosines, num_tokens = [], 0.0, 0
    order = longest_first(dataset)  # for little padding; the measures do not depend on it
    for states, is_token in _states_of_batches(model, dataset, order, collator, batch_size):
        features.append(_token_means(torch.stack(states), is_token).float().cpu())
        # One layer at a time: for all layers at once, memory would have to hold their states several times.
        cosine = torch.stack([cosine_similarity(x.float(), y.float(), dim=-1) for x, y in zip(states, states[1:])])
        cosines += (cosine * is_token).sum(dim=(1, 2)).double().cpu().numpy()
        num_tokens += int(is_token.sum())
    features = torch.cat(features, dim=1).numpy()
    similarities = [linear_cka(before, after) for before, after in zip(features, features[1:])]
    return {"cka": 1 - np.array(similarities), "block_influence": 1 - cosines / num_tokens}


def _states_of_batches(
    model: PreTrainedModel,
    dataset: Dataset,
    order: Sequence[int],
    collator: Callable,
    batch_size: int,
    bf16: bool = False,
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """Runs a model and yields for each batch the embeddings and every layer's output, and which positions are tokens.

    Each output is `(batch, tokens, hidden)`. A model whose layers normalize their input returns the last one after its
    final norm, so the output of the last layer itself is read by a hook.
    """
    passed = []

    def keep(layer: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor | tuple) -> None:
        before, *_ = (*args, *kwargs.values())
        passed.append((before, output[0] if isinstance(output, tuple) else output))

    handle = model.get_submodule(find_layer_list(model))[-1].register_forward_hook(keep, with_kwargs=True)
    try:
        batches = outputs_of_batches(model, dataset, order, collator, batch_size, bf16=bf16, output_hidden_states=True)
        for _, batch, outputs in batches:
            states = list(outputs.hidden_states)
            # SqueezeBERT calls no hooks of its layers, and XLNet's compute in another order of the dimensions than it
            # returns. Both have no final norm.
            for before, after in passed:
                if torch.equal(before, states[-2]):
                    states[-1] = after
            passed.clear()
            yield states, batch["attention_mask"]
    finally:
        handle.remove()


def _token_means(hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    """Returns the mean over the tokens, `(layers, batch, hidden)`.

    Args:
        hidden: `(layers, batch, tokens, hidden)`.
        is_token: `(batch, tokens)`, 0 for padding.
    """
    is_token = is_token[None, :, :, None]
    return (hidden * is_token).sum(dim=2) / is_token.sum(dim=2)


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the linear centered kernel alignment of two representations of the same examples, in [0, 1].

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (https://arxiv.org/abs/1905.00414),
    section 3: |Y'X|² / (|X'X| |Y'Y|) in Frobenius norms, for X and Y with the mean of every column subtracted.
    Rotating, scaling or shifting a representation changes nothing, so representations that differ only so give 1.

    Args:
        first, second: `(examples, features)`; the numbers of features may differ.
    """
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = np.linalg.norm
    return float(norm(second.T @ first) ** 2 / (norm(first.T @ first) * norm(second.T @ second)))


def cka_matrix(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Returns the linear CKA of every teacher layer (rows) with every student layer (columns).

    Args:
        teacher, student: as `layer_features` returns them.
    """
    return np.array([[linear_cka(rows, columns) for columns in student] for rows in teacher])
