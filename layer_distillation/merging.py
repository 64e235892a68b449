"""Models whose weights are their own: adapters of PEFT are merged into a copy.

teacher = merged(teacher)    # the teacher itself, if it has no adapters
"""

import copy

from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.errors import UserError
from layer_distillation.model_outputs import plain_model


def merged(model: nn.Module) -> PreTrainedModel:
    """Returns a plain model that computes what a model with adapters computes; without adapters, the model itself.

    Half precision, unless quantized, is merged in float32: rounded to it, a weight loses much of a small change.

    Raises:
        UserError: the adapters cannot be merged into weights.
    """
    if has_native_adapters(model):
        raise UserError(
            f"{type(plain_model(model)).__name__} has adapters that `add_adapter` or `from_pretrained` has put into "
            "it, so its layers cannot be copied. Load it as a `PeftModel` and merge it: "
            "`PeftModel.from_pretrained(base, adapter).merge_and_unload()`."
        )
    if unwrap_peft_model(model) is model:
        return plain_model(model)
    if model.active_peft_config.is_prompt_learning:
        raise UserError(
            f"Adapters of the type {model.active_peft_config.peft_type.value} do not change weights, so the layers of "
            "the model cannot be copied with them. Choose a teacher that was trained with LoRA or as a whole."
        )
    model = copy.deepcopy(model)
    if not getattr(plain_model(model), "is_quantized", False):
        model.float()
    return model.merge_and_unload()


def has_native_adapters(model: nn.Module) -> bool:
    """Returns whether `transformers` has put adapters into a model, without a `PeftModel` around it."""
    model = plain_model(model)
    return isinstance(model, PreTrainedModel) and model._hf_peft_config_loaded
