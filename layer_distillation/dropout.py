"""The dropout of a model: its rates, and how it is drawn in training.

from layer_distillation.dropout import dropout_drawn_quickly, set_dropout

set_dropout(student, 0.1)
with dropout_drawn_quickly():
    ...    # training steps
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

_dropout = functional.dropout
# Rates are multiples of 1 / RATES.
RATES = 2**16


def set_dropout(model: nn.Module, rate: float) -> None:
    """Sets every dropout rate of a model, which architectures hold as a module or as a number.

    The config stays as it is. The dropout of LoRA's adapters has an option of its own and stays too.

    Args:
        rate: share of the values that training sets to zero, in [0, 1).
    """
    for module, name in _rates(model):
        setattr(module, name, rate)


def has_dropout(model: nn.Module) -> bool:
    """Returns whether any dropout rate of a model that `set_dropout` sets is above 0."""
    return any(getattr(module, name) > 0 for module, name in _rates(model))


def _rates(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The modules that hold a rate, and the names of their attributes."""
    for path, module in model.named_modules():
        if "lora_dropout" in path:
            continue
        if isinstance(module, nn.Dropout):
            yield module, "p"
        yield from (
            (module, name) for name, value in vars(module).items() if "dropout" in name and type(value) is float
        )


@contextmanager
def dropout_drawn_quickly() -> Iterator[None]:
    """Has `torch.nn.functional.dropout`, which all models call, draw its random numbers as `quick_dropout`."""
    before, functional.dropout = functional.dropout, quick_dropout
    try:
        yield
    finally:
        functional.dropout = before


def quick_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Returns what `torch.nn.functional.dropout` does, with random numbers that are drawn four at a time.

    On the processors measured, PyTorch draws them one by one on one thread, which takes up to a third of a training
    step in bfloat16 (docs/PERFORMANCE.md). Here as there, every value is zero with a probability of `p`, independently
    of the others, and the rest is scaled so that the mean stays; `p` is rounded to a multiple of 1 / 65536. The random
    numbers come from PyTorch's default generator. Where nothing is drawn on a processor, it is PyTorch's function.
    """
    num_dropped = round(p * RATES)
    is_drawn = training and 0 < num_dropped < RATES
    if not is_drawn or inplace or input.device.type != "cpu" or torch.compiler.is_compiling():
        return _dropout(input, p, training, inplace)
    # Four integers of 16 bits, from -RATES / 2 on, in each of 64 bits.
    draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    first_kept = num_dropped - RATES // 2
    is_kept = draws[: input.numel()].clamp_(first_kept - 1, first_kept).sub_(first_kept - 1)
    return input * is_kept.view(input.shape).to(input.dtype).mul_(RATES / (RATES - num_dropped))
