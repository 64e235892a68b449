"""Which layers of two models represent the examples alike, and which layers of one change them most.

similarity = cka_matrix(layer_features(teacher, dataset, collator), layer_features(student, dataset, collator))
changes = layer_changes(teacher, dataset, collator)["block_influence"]
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from layer_distillation.model_outputs import MODEL_INPUTS


@torch.inference_mode()
def layer_features(model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64) -> np.ndarray:
    """The mean over the tokens of each layer's output: float32 `(layers, examples, hidden)`, layer 1 first.

    Args:
        model: an encoder with any head, in `eval()` mode.
        dataset: tokenised examples.
        collator: pads a list of examples into a batch of tensors.
    """
    batches = [_token_means(*batch)[1:] for batch in _hidden_states(model, dataset, collator, batch_size)]
    return torch.cat(batches, dim=1).float().cpu().numpy()


@torch.inference_mode()
def layer_changes(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """How much each layer changes what passes through it, from one pass over the examples.

    Arguments as for `layer_features`.

    Returns:
        Two measures, `(layers,)` each, layer 1 first; 0 for a layer that hands on what it gets.

        `cka`: 1 - linear CKA (see `linear_cka`) of the layer's input and output, both averaged over the tokens.

        `block_influence`: 1 - mean over all tokens t of cos(x_t, y_t), for the layer's input x and output y. Men et
        al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect"
        (https://arxiv.org/abs/2403.03853).
    """
    features, cosines, num_tokens = [], 0.0, 0
    for hidden, is_token in _hidden_states(model, dataset, collator, batch_size):
        features.append(_token_means(hidden, is_token).float().cpu())
        # One layer at a time: the states of all of them at once would be held several times over.
        cosine = torch.stack([cosine_similarity(x.float(), y.float(), dim=-1) for x, y in zip(hidden, hidden[1:])])
        cosines += (cosine * is_token).sum(dim=(1, 2)).double().cpu().numpy()
        num_tokens += int(is_token.sum())
    features = torch.cat(features, dim=1).numpy()
    similarities = [linear_cka(before, after) for before, after in zip(features, features[1:])]
    return {"cka": 1 - np.array(similarities), "block_influence": 1 - cosines / num_tokens}


def _hidden_states(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The embeddings' and each layer's output `(layers + 1, batch, tokens, hidden)`, and what is no padding.

    The second is 0 or 1, `(batch, tokens)`.
    """
    dataset = dataset.select_columns([name for name in MODEL_INPUTS if name in dataset.column_names])
    for start in range(0, len(dataset), batch_size):
        rows = dataset.select(range(start, min(start + batch_size, len(dataset)))).to_list()
        batch = {name: tensor.to(model.device) for name, tensor in collator(rows).items()}
        yield torch.stack(model(**batch, output_hidden_states=True).hidden_states), batch["attention_mask"]


def _token_means(hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    """`(layers, batch, hidden)`"""
    is_token = is_token[None, :, :, None]
    return (hidden * is_token).sum(dim=2) / is_token.sum(dim=2)


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centred kernel alignment of two representations of the same examples, in [0, 1].

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (https://arxiv.org/abs/1905.00414),
    section 3: |Y'X|² / (|X'X| |Y'Y|) in Frobenius norms, for X and Y with the mean of every column taken off. 1 for
    representations that differ by rotation and scale; rotating or scaling either changes nothing.

    Args:
        first, second: `(examples, features)`; the numbers of features may differ.
    """
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = np.linalg.norm
    return float(norm(second.T @ first) ** 2 / (norm(first.T @ first) * norm(second.T @ second)))


def cka_matrix(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Linear CKA of every teacher layer (rows) with every student layer (columns); arguments as `layer_features`."""
    return np.array([[linear_cka(rows, columns) for columns in student] for rows in teacher])
