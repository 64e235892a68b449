"""Models whose weights are their own: adapters of PEFT are merged into a copy.

teacher = merged(teacher)    # the teacher itself, if it has no adapters
"""

import copy
from collections import Counter

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.errors import UserError
from layer_distillation.model_outputs import plain_model
from layer_distillation.precision import is_quantized

# PEFT has no error of its own for adapters that cannot be merged. An adapter of another kind lacks the method.
MERGING_ERRORS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)


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
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    if unwrap_peft_model(model) is model:
        return model
    try:
        return _merged_copy(model)
    except MERGING_ERRORS as error:
        kinds = ", ".join(sorted({config.peft_type.value for config in model.peft_config.values()}))
        raise UserError(
            f"The teacher's adapters ({kinds}) cannot be merged into its weights, so its layers cannot be copied with "
            f"them: {str(error).rstrip('.')}. Choose a teacher with adapters that can be merged, such as LoRA, or one "
            "that was trained as a whole."
        ) from error


def _merged_copy(model: nn.Module) -> PreTrainedModel:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    model = copy.deepcopy(model)
    if not is_quantized(model):
        model.float()
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    wrapped = [module for module in model.modules() if isinstance(module, wrappers)]
    owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    for module in adapted:
        # What is merged into the weight would change all modules that share it.
        if any(owners[id(weight)] > 1 for weight in module.get_base_layer().parameters(recurse=False)):
            raise ValueError("several modules share a weight that is adapted")
    for module in wrapped:
        # `merge_and_unload` asks which adapters are active, not whether they are switched off.
        if module.disable_adapters:
            if module.merged_adapters:
                module.unmerge()
            module.set_adapter([])
    plain = model.merge_and_unload()
    if left := [name for name, module in plain.named_modules() if isinstance(module, wrappers)]:
        raise ValueError(f"PEFT does not unwrap {', '.join(left)}")
    return plain


def has_native_adapters(model: nn.Module) -> bool:
    """Returns whether `transformers` has put adapters into a model, without a `PeftModel` around it."""
    model = plain_model(model)
    return isinstance(model, PreTrainedModel) and model._hf_peft_config_loaded
