"""The dropout rates of a model.

from layer_distillation.dropout import set_dropout

set_dropout(student, 0.0)
"""

from torch import nn


def set_dropout(model: nn.Module, rate: float) -> None:
    """Sets every dropout rate of a model, which architectures hold as a module or as a number.

    The config stays as it is. The dropout of LoRA's adapters has an option of its own and stays too.

    Args:
        rate: share of the values that training sets to zero, in [0, 1).
    """
    for path, module in model.named_modules():
        if "lora_dropout" in path:
            continue
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, rate)
