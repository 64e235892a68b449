"""The norm that the first layer of ModernBERT lacks.

    if lacks_first_norm(student, teacher_layer):
        fold_first_norm(student, teacher_layer)

ModernBERT normalizes its embeddings, so its first layer does without the norm before the attention that all others
have. A layer of the teacher that becomes the student's first layer would lose its norm. It is folded into the
projections that read it. What remains are the differences in scale between tokens, which the embeddings' own norm
keeps small.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.layer_outputs import attention_of
from layer_distillation.whole_weights import gathered

FIRST_NORM = "attn_norm"
MAX_TOKENS = 8192


def lacks_first_norm(student: PreTrainedModel, teacher_layer: nn.Module) -> bool:
    """Returns whether the student's first layer lacks a norm that the teacher's layer, of which it is a copy, has."""
    of_student = student.get_submodule(find_layer_list(student))[0]
    norms = [dict(layer.named_children()).get(FIRST_NORM) for layer in (of_student, teacher_layer)]
    return isinstance(norms[0], nn.Identity) and isinstance(norms[1], nn.LayerNorm)


def loses_bias(student: PreTrainedModel, teacher_layer: nn.Module) -> bool:
    """Returns whether the norm of the teacher's layer has a bias that a projection of the student cannot take."""
    norm = getattr(teacher_layer, FIRST_NORM)
    with gathered(norm):
        has_bias = norm.bias is not None and bool(norm.bias.any())
    return has_bias and any(projection.bias is None for projection in attention_of(student, 1)[1].values())


@torch.no_grad()
def fold_first_norm(student: PreTrainedModel, teacher_layer: nn.Module) -> None:
    """Multiplies the projections of the student's first layer by the norm of the teacher's layer.

    A norm subtracts the mean of a token, divides by its standard deviation and multiplies by weights. All but the
    division is linear. The division becomes the one factor that fits all tokens of the vocabulary best.

    Args:
        student: with the weights of its layers; changed in place.
    """
    norm, layers = getattr(teacher_layer, FIRST_NORM), find_layer_list(student)
    encoder = student.get_submodule(layers.rpartition(".")[0])
    vocabulary = torch.arange(min(encoder.embeddings.tok_embeddings.num_embeddings, MAX_TOKENS), device=student.device)
    states = encoder.embeddings(input_ids=vocabulary[None]).double()
    deviations = (states.var(dim=-1, correction=0) + norm.eps).sqrt()
    factor = deviations.mean() / deviations.square().mean()  # least squares of factor * deviation - 1
    _, projections = attention_of(student, 1)
    for projection in projections.values():
        weight = projection.weight.double() * norm.weight.double()
        if norm.bias is not None and projection.bias is not None:
            projection.bias += (projection.weight.double() @ norm.bias.double()).to(projection.bias.dtype)
        weight = factor * (weight - weight.mean(dim=1, keepdim=True))
        projection.weight.copy_(weight)
