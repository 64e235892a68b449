"""Training steps that compute the same in less time.

with quickest_steps(trainer):
    ...    # training steps
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from transformers import Trainer

from layer_distillation.attention import quickest_attention
from layer_distillation.clipping import clipped_in_step
from layer_distillation.dropout import dropout_drawn_quickly
from layer_distillation.unread_tokens import unread_tokens_left_out


@contextmanager
def quickest_steps(trainer: Trainer) -> Iterator[None]:
    """Has a trainer train its model as is quickest where it runs, and restores everything at the end.

    Before the model is wrapped for several processes. Attention and dropout change on a processor only.
    """
    model, accelerator = trainer.model, trainer.accelerator
    on_processor = accelerator.device.type == "cpu"
    attention = quickest_attention(model, applies=on_processor and accelerator.mixed_precision == "bf16")
    dropout = dropout_drawn_quickly() if on_processor else nullcontext()
    with unread_tokens_left_out(model), attention, dropout, clipped_in_step(trainer):
        yield
