"""Which layers of two models represent the examples alike: linear CKA.

similarity = cka_matrix(layer_features(teacher, dataset, collator), layer_features(student, dataset, collator))
"""

from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from teacher_cache import MODEL_INPUTS


@torch.inference_mode()
def layer_features(model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64) -> np.ndarray:
    """The mean over the tokens of each layer's output: float32 `(layers, examples, hidden)`, layer 1 first.

    Args:
        model: an encoder with any head, in `eval()` mode.
        dataset: tokenised examples.
        collator: pads a list of examples into a batch of tensors.
    """
    dataset = dataset.select_columns([name for name in MODEL_INPUTS if name in dataset.column_names])
    batches = []
    for start in range(0, len(dataset), batch_size):
        rows = dataset.select(range(start, min(start + batch_size, len(dataset)))).to_list()
        batch = {name: tensor.to(model.device) for name, tensor in collator(rows).items()}
        hidden = torch.stack(model(**batch, output_hidden_states=True).hidden_states[1:])
        is_token = batch["attention_mask"][None, :, :, None]
        batches.append((hidden * is_token).sum(dim=2) / is_token.sum(dim=2))
    return torch.cat(batches, dim=1).float().cpu().numpy()


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
