"""Where a model holds its layers, and how many there are."""

from torch import nn
from transformers import PreTrainedModel

from layer_distillation.errors import UserError


def num_layers(model: PreTrainedModel) -> int:
    """Returns the depth N of an encoder; raises as `find_layer_list`."""
    return len(model.get_submodule(find_layer_list(model)))


def find_layer_list(model: PreTrainedModel) -> str:
    """Returns the name of the one `ModuleList` that holds the layers, such as `bert.encoder.layer`.

    Raises:
        UserError: the model does not hold its N layers in exactly one `ModuleList`, or has an encoder and a decoder.
    """
    model_name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UserError(f"{model_name} has an encoder and a decoder: choose an encoder-only teacher, such as BERT.")

    depth = getattr(model.config, "num_hidden_layers", None)
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not names:
        raise UserError(
            f"The layers must be one ModuleList of length config.num_hidden_layers = {depth}, and {model_name} has "
            "none: its layers are shared, as in ALBERT, or arranged otherwise. Choose a teacher such as BERT."
        )
    if len(names) > 1:
        raise UserError(
            f"The layers must be one ModuleList of length config.num_hidden_layers = {depth}, and {model_name} has "
            f"several: {', '.join(names)}. Choose a teacher such as BERT."
        )
    return names[0]
