"""Where a model holds its layers, and how many there are.

from layer_distillation.encoder_layers import find_layer_list, layer_numbers, num_layers

find_layer_list(model)    # "bert.encoder.layer"
num_layers(model)         # 12
layer_numbers("layers", torch.tensor([1, 3]))    # (1, 3)
"""

import inspect
import operator
from collections.abc import Iterable, Set
from contextlib import suppress

from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.student_config import config_of_layers, encoder_config
from layer_distillation.whole_weights import whole_weights


def num_layers(model: PreTrainedModel) -> int:
    """Returns the number of layers of an encoder.

    Raises:
        UserError: as `find_layer_list`.
    """
    return len(model.get_submodule(find_layer_list(model)))


def layer_numbers(name: str, layers: Iterable[int]) -> tuple[int, ...]:
    """Returns the layers that a user has passed, as a list, an array, a tensor, a generator and so on, as numbers.

    Args:
        name: what the user calls the layers.

    Raises:
        UserError: the layers are no whole numbers, or a set.
    """
    if not isinstance(layers, Set):  # which has no order, but the student stacks its layers in one
        with suppress(TypeError):
            return tuple(map(operator.index, layers))
    raise UserError(f"`{name}` must be a sequence of whole numbers, such as (1, 3, 5), found {layers!r}.")


def find_layer_list(model: PreTrainedModel) -> str:
    """Returns the name of the one `ModuleList` that holds the layers, such as `bert.encoder.layer`.

    Raises:
        UserError: the model does not hold its N layers in exactly one `ModuleList`, or has an encoder and a decoder.
    """
    model_name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UserError(f"{model_name} has an encoder and a decoder. Choose an encoder-only teacher, such as BERT.")
    names = lists_of_layers(model)
    if len(names) > 1:
        names = _lists_that_grow(model, names)
    if len(names) != 1:
        found = f"several: {', '.join(names)}" if names else "none: its layers are shared, as in ALBERT, or nested"
        raise UserError(
            f"A teacher must hold its layers in one ModuleList of length config.num_hidden_layers = {_depth(model)}, "
            f"but {model_name} has {found}. Choose a teacher such as BERT."
        )
    return names[0]


def lists_of_layers(model: PreTrainedModel) -> list[str]:
    """Returns the name of every `ModuleList` with as many entries as the config says that the model has layers.

    A list within an entry of another is left out, such as the feed-forward networks of a MobileBERT layer.
    """
    depth = _depth(model)
    names = []
    for name, module in model.named_modules():
        is_nested = any(name.startswith(f"{outer}.") for outer in names)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not is_nested:
            names.append(name)
    return names


def blueprint(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """Builds a model of the same class; its parameters take no memory and draw no random numbers.

    Raises:
        UserError: the class needs more than a config.
    """
    parameters = list(inspect.signature(type(model).__init__).parameters.values())[2:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        raise UserError(
            f"A student is built from its config alone, but `{type(model).__name__}` needs {', '.join(needed)} too. "
            "Give such arguments a default, or read them from the config."
        )
    with whole_weights(), init_empty_weights():
        return type(model)(config)


def _lists_that_grow(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Returns those of the lists that would be longer in a model of one layer more."""
    depth = _depth(model)
    deeper = blueprint(model, config_of_layers(model.config, [*range(depth), depth - 1]))
    return [name for name in names if len(deeper.get_submodule(name)) > depth]


def _depth(model: PreTrainedModel) -> int | None:
    # Configs of models that are not made of layers lack the entry.
    return getattr(encoder_config(model.config), "num_hidden_layers", None)
