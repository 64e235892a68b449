"""The implementation of attention that trains fastest on a processor.

    with quickest_attention(student, applies=True):
        ...    # training steps

In bfloat16 PyTorch's scaled dot product attention has a fused kernel with a slow backward pass. With dropout it takes
its operations one by one, in float32, and draws the dropout by itself. The "eager" attention of transformers is faster
in both cases (docs/PERFORMANCE.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from layer_distillation.model_outputs import config_of, plain_model

# Measured up to 128 tokens. Eager attention takes memory with the square of the length, so that models for long texts
# keep their own: RoBERTa has 514 positions.
MOST_POSITIONS = 514


@contextmanager
def quickest_attention(model: nn.Module, applies: bool) -> Iterator[None]:
    """Trains a model with "eager" attention in place of "sdpa", and restores its settings at the end.

    Both compute the same function, with other roundings. Other implementations stay as they are, and so do models for
    texts of more than 514 tokens.

    Args:
        applies: whether the training is in bfloat16 on a processor.
    """
    config = config_of(model)
    if not (applies and config is not None and config._attn_implementation == "sdpa" and _is_for_short_texts(config)):
        yield
        return
    with eager_attention(plain_model(model)):
        yield


@contextmanager
def eager_attention(plain: PreTrainedModel) -> Iterator[None]:
    """Has a model compute attention step by step, and restores its implementation at the end."""
    before = [(part, part._attn_implementation) for part in _configs(plain.config)]
    try:
        plain.set_attn_implementation("eager")
        yield
    finally:
        for part, implementation in before:
            part._attn_implementation_internal = implementation  # the public setter would set the parts of a part too


def _is_for_short_texts(config: PretrainedConfig) -> bool:
    return getattr(config.get_text_config(), "max_position_embeddings", MOST_POSITIONS + 1) <= MOST_POSITIONS


def _configs(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """The config and the configs of its parts."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _configs(part)
