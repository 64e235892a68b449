"""Gradient clipping within the step of a fused AdamW, which reads the gradients anyway.

    with clipped_in_step(trainer):
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
from torch.optim.optimizer import _global_optimizer_pre_hooks
from transformers import Trainer, TrainerCallback

DEVICES = ("cpu", "cuda")  # other fused kernels may not read the scale
WITHOUT_SHARDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
EPSILON = 1e-6  # that `torch.nn.utils.clip_grad_norm_` adds to the norm


@contextmanager
def clipped_in_step(trainer: Trainer) -> Iterator[None]:
    """Has the trainer's `_clip_grad_norm` return the norm, and leave the scaling to the optimizer's next step.

    It clips at once as before where somebody may look at the clipped gradients before the step: a callback
    (`on_pre_optimizer_step`), a hook of the optimizer, or a trainer with its own `_get_grad_norm`. So it does for
    other optimizers, for a part of the parameters, for other weights than float32, and where an engine shares out the
    gradients. A trainer with its own `_clip_grad_norm` is left alone, and so are other callers of the accelerator.
    """
    if _is_replaced(trainer, Trainer, "_clip_grad_norm"):
        yield
        return
    at_once, waiting = trainer._clip_grad_norm, _WaitingScale()

    def clip(model: nn.Module) -> Any:
        waiting.drop()
        parameters = list(model.parameters())
        optimizer = _scaling_optimizer(trainer, parameters)
        if optimizer is None:
            return at_once(model)
        norm, scale = norm_and_scale(parameters, trainer.args.max_grad_norm)
        waiting.set(optimizer, scale)
        return norm

    trainer._clip_grad_norm = clip
    try:
        yield
    finally:
        del trainer._clip_grad_norm
        waiting.end()


def norm_and_scale(parameters: Iterable[nn.Parameter], max_norm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the norm of all gradients, and what to divide them by: `norm / max_norm`, or 1 if that is below 1."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm, ((norm + EPSILON) / max_norm).clamp(min=1.0)


class _WaitingScale:
    """What the next step of an optimizer divides its gradients by. After it, or if it is skipped, it is dropped."""

    def __init__(self):
        self._optimizer = self._handle = None

    def set(self, optimizer: torch.optim.Adam, scale: torch.Tensor) -> None:
        if optimizer is not self._optimizer:
            self.end()
            self._optimizer, self._handle = optimizer, optimizer.register_step_post_hook(self.drop)
        optimizer.grad_scale = scale

    def drop(self, *_: Any) -> None:
        if self._optimizer is not None:
            self._optimizer.grad_scale = None

    def end(self) -> None:
        if self._optimizer is not None:
            self.drop()
            self._handle.remove()


def _scaling_optimizer(trainer: Trainer, parameters: Sequence[nn.Parameter]) -> torch.optim.Adam | None:
    """Returns the optimizer of a training if it scales its gradients, which must be those of the parameters."""
    accelerator = trainer.accelerator
    if accelerator.distributed_type not in WITHOUT_SHARDS or accelerator.scaler is not None:
        return None
    optimizers = [prepared.optimizer for prepared in accelerator._optimizers]
    # No subclass of an optimizer, whose step may not know of the scale.
    if len(optimizers) != 1 or type(optimizers[0]) not in (torch.optim.Adam, torch.optim.AdamW):
        return None
    (optimizer,) = optimizers
    callbacks = trainer.callback_handler.callbacks
    is_seen = (
        any(_is_replaced(callback, TrainerCallback, "on_pre_optimizer_step") for callback in callbacks)
        or _is_replaced(trainer, Trainer, "_get_grad_norm")
        or _is_replaced(accelerator, Accelerator, "clip_grad_norm_")
        or optimizer._optimizer_step_pre_hooks
        or _global_optimizer_pre_hooks
    )
    clipped = set(map(id, parameters))
    scales = all(group["fused"] for group in optimizer.param_groups) and all(
        id(p) in clipped and p.grad.dtype == torch.float32 and p.grad.device.type in DEVICES
        for p in _parameters(optimizer)
    )
    return optimizer if scales and not is_seen else None


def _is_replaced(owner: Any, base: type, name: str) -> bool:
    """Whether a method is not that of `base`: a class may override it, and an instance too."""
    return getattr(getattr(owner, name), "__func__", None) is not getattr(base, name)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Returns the parameters of an optimizer that have gradients."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
