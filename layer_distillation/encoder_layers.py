"""Where a model holds its layers, and how many there are.

from layer_distillation.encoder_layers import find_layer_list, num_layers

find_layer_list(model)    # "bert.encoder.layer"
num_layers(model)         # 12
"""

from torch import nn
from transformers import PreTrainedModel

from layer_distillation.errors import UserError


def num_layers(model: PreTrainedModel) -> int:
    """Returns the number of layers of an encoder.

    Raises:
        UserError: as `find_layer_list`.
    """
    return len(model.get_submodule(find_layer_list(model)))


def find_layer_list(model: PreTrainedModel) -> str:
    """Returns the name of the one `ModuleList` that holds the layers, such as `bert.encoder.layer`.

    Raises:
        UserError: the model does not hold its N layers in exactly one `ModuleList`, or has an encoder and a decoder.
    """
    model_name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UserError(f"{model_name} has an encoder and a decoder. Choose an encoder-only teacher, such as BERT.")
    names = lists_of_layers(model)
    if len(names) != 1:
        found = f"several: {', '.join(names)}" if names else "none: its layers are shared, as in ALBERT, or nested"
        raise UserError(
            f"A teacher must hold its layers in one ModuleList of length config.num_hidden_layers = {_depth(model)}, "
            f"but {model_name} has {found}. Choose a teacher such as BERT."
        )
    return names[0]


def lists_of_layers(model: PreTrainedModel) -> list[str]:
    """Returns the name of every `ModuleList` with as many entries as the config says that the model has layers."""
    depth = _depth(model)
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]


def _depth(model: PreTrainedModel) -> int | None:
    # Configs of models that are not made of layers lack the entry.
    return getattr(model.config, "num_hidden_layers", None)
