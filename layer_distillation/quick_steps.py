"""Training steps that compute the same function in less time.

with quickest_steps(student, trainer.accelerator):
    ...    # training steps
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from accelerate import Accelerator
from torch import nn

from layer_distillation.attention import quickest_attention
from layer_distillation.dropout import dropout_drawn_quickly
from layer_distillation.unread_tokens import unread_tokens_left_out


@contextmanager
def quickest_steps(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Trains a model as is quickest where it runs, and restores everything at the end.

    Args:
        model: before it is wrapped for several processes.
        accelerator: of the training. Attention and dropout change on a processor only.
    """
    on_processor = accelerator.device.type == "cpu"
    attention = quickest_attention(model, applies=on_processor and accelerator.mixed_precision == "bf16")
    dropout = dropout_drawn_quickly() if on_processor else nullcontext()
    with unread_tokens_left_out(model), attention, dropout:
        yield
