"""The attention implementation that trains fastest where PyTorch's own is slow.

    with quickest_attention(student, bf16=True):
        trainer.train()

In bfloat16 on a processor, PyTorch's scaled dot product attention has a fused kernel with a slow backward pass. With
dropout it takes its operations one by one, in float32. The "eager" attention of transformers is faster without
dropout, and as fast with it (docs/PERFORMANCE.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from layer_distillation.model_outputs import config_of, plain_model


@contextmanager
def quickest_attention(model: nn.Module, bf16: bool) -> Iterator[None]:
    """Trains a model with "eager" attention in place of "sdpa" in bfloat16 on a processor, and restores it at the end.

    Both compute the same function, with other roundings. Other implementations, and other devices, stay as they are.

    Args:
        bf16: whether the forward pass is autocast to bfloat16.
    """
    config = config_of(model)
    on_processor = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if not (bf16 and on_processor and config is not None and config._attn_implementation == "sdpa"):
        yield
        return
    parts = {name: getattr(config, name) for name in config.sub_configs}
    before = {"": "sdpa"} | {name: part._attn_implementation for name, part in parts.items() if part is not None}
    plain_model(model).set_attn_implementation("eager")
    try:
        yield
    finally:
        plain_model(model).set_attn_implementation(before)
