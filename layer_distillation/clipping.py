"""Gradient clipping within the step of a fused AdamW, which reads the gradients anyway.

    with clipped_in_step(trainer.accelerator, callbacks):
        ...    # training steps

Clipping reads all gradients for their norm, and reads and writes them to scale them: a twentieth of a step in bfloat16
(docs/PERFORMANCE.md). The fused Adam and AdamW of PyTorch scale gradients while they read them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainerCallback

WITHOUT_SHARDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
EPSILON = 1e-6  # that `torch.nn.utils.clip_grad_norm_` adds to the norm


@contextmanager
def clipped_in_step(accelerator: Accelerator, callbacks: Sequence[TrainerCallback]) -> Iterator[None]:
    """Has `accelerator.clip_grad_norm_` return the norm, and leave the scaling to the optimizer's next step.

    With other optimizers, in float16, and where an engine shares out the gradients, it clips at once as before. So it
    does where a callback looks at the clipped gradients before the step (`on_pre_optimizer_step`).
    """
    at_once = accelerator.clip_grad_norm_
    are_seen = any(type(one).on_pre_optimizer_step is not TrainerCallback.on_pre_optimizer_step for one in callbacks)

    def clip(parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2) -> Any:
        optimizer = None if are_seen else _scaling_optimizer(accelerator)
        if optimizer is None:
            return at_once(parameters, max_norm, norm_type)
        return clip_in_next_step(optimizer, parameters, max_norm, norm_type)

    accelerator.clip_grad_norm_ = clip
    try:
        yield
    finally:
        accelerator.clip_grad_norm_ = at_once


def _scaling_optimizer(accelerator: Accelerator) -> torch.optim.Adam | None:
    if accelerator.distributed_type not in WITHOUT_SHARDS or accelerator.scaler is not None:
        return None
    optimizers = [prepared.optimizer for prepared in accelerator._optimizers]
    # No subclass, whose step may not know of the scale.
    if len(optimizers) != 1 or type(optimizers[0]) not in (torch.optim.Adam, torch.optim.AdamW):
        return None
    (optimizer,) = optimizers
    return optimizer if optimizer.defaults["fused"] and not optimizer._optimizer_step_pre_hooks else None


def clip_in_next_step(
    optimizer: torch.optim.Adam, parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2
) -> torch.Tensor:
    """Returns the norm of the gradients, which the optimizer divides by `norm / max_norm` if that is above 1."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], norm_type)
    optimizer.grad_scale = ((norm + EPSILON) / max_norm).clamp(min=1.0)

    def scale_no_more(*_: Any) -> None:
        optimizer.grad_scale = None
        handle.remove()

    handle = optimizer.register_step_post_hook(scale_no_more)
    return norm
