"""The dropout of a model: its rates, and how it is drawn in training.

from layer_distillation.dropout import dropout_drawn_quickly, set_dropout

set_dropout(student, 0.1)
with dropout_drawn_quickly():
    ...    # training steps
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from layer_distillation.model_outputs import config_of

logger = logging.getLogger(__name__)

# Rates that types of models read from their config in a forward pass. BigBird's models build another attention when
# the texts are too short for the sparse one.
RATES_IN_CONFIG = {
    "falcon": ("hidden_dropout", "attention_dropout"),
    "persimmon": ("attention_dropout",),
    "big_bird": ("attention_probs_dropout_prob",),
    "bigbird_pegasus": ("attention_dropout",),
}
_dropout = functional.dropout
# Of so many random integers of 16 bits, a rate is the share that drops a value.
INTEGERS = 2**16


def set_dropout(model: nn.Module, rate: float) -> None:
    """Sets every dropout rate of a model, which architectures hold as a module or as a number.

    The config stays as it is, and with it the rates that a few types of models read there while they run
    (`RATES_IN_CONFIG`): a warning names them. The dropout of LoRA's adapters has an option of its own and stays too.

    Args:
        rate: share of the values that training sets to zero, in [0, 1).
    """
    for module, name, _ in dropout_rates(model):
        setattr(module, name, rate)
    for path, module in model.named_modules():
        for name, child in module.named_children() if "lora_dropout" not in path else ():
            # What ModernBERT and the heads of XLNet, XLM and FlauBERT build in place of a dropout whose rate is 0.
            if isinstance(child, nn.Identity) and name.endswith(("drop", "dropout")):
                setattr(module, name, nn.Dropout(rate))
    config = config_of(model)
    for name in () if config is None else RATES_IN_CONFIG.get(config.model_type, ()):
        if (kept := getattr(config, name)) != rate:
            logger.warning(
                f"--student_dropout {rate:g} does not reach {name}, {kept:g}: {type(model).__name__} reads it from "
                "its config while it runs. Change it in the config.json of the teacher."
            )


def dropout_rates(model: nn.Module, word: str = "dropout") -> list[tuple[nn.Module, str, float]]:
    """Returns the dropout rates in a model but for those of LoRA's adapters, in the form that `setattr` takes.

    Args:
        word: that the name of a number holds if it is a rate.
    """
    return [
        (module, name, value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if "lora_dropout" not in path
        and type(value) in (int, float)  # no bool, which switches something
        and (word in name or (name == "p" and isinstance(module, nn.Dropout)))
    ]


@contextmanager
def dropout_drawn_quickly() -> Iterator[None]:
    """Has `torch.nn.functional.dropout`, which modules and "eager" attention call, be `quick_dropout`."""
    before, functional.dropout = functional.dropout, quick_dropout
    try:
        yield
    finally:
        functional.dropout = before


def quick_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Returns what `torch.nn.functional.dropout` does, with random numbers that are drawn four at a time.

    On the processors measured, PyTorch draws them one by one on one thread, which takes a quarter of the forward and
    backward pass of a student in bfloat16 (docs/PERFORMANCE.md). Here as there, every value is zero with a probability
    of `p`, independently of the others, and the rest is scaled so that the mean stays; `p` is rounded to a multiple of
    1 / 65536. The random numbers come from PyTorch's default generator. On other devices, in place, and within
    `torch.compile`, it is PyTorch's function.
    """
    num_dropped = round(p * INTEGERS)
    is_drawn = training and 0 < num_dropped < INTEGERS
    if not is_drawn or inplace or input.device.type != "cpu" or torch.compiler.is_compiling():
        return _dropout(input, p, training, inplace)
    # Four integers of 16 bits, from -INTEGERS / 2 on, in each of 64 bits. Bounded to two values that become 0 and 1:
    # turning the result of a comparison into numbers takes longer.
    draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    first_kept = num_dropped - INTEGERS // 2
    is_kept = draws[: input.numel()].clamp_(first_kept - 1, first_kept).sub_(first_kept - 1)
    return input * is_kept.view(input.shape).to(input.dtype).mul_(INTEGERS / (INTEGERS - num_dropped))
