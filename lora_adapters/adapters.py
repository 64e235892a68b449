"""Puts LoRA on a student: low-rank adapters on the linear layers of its encoder. Its head is trained as a whole.

    from lora_adapters.adapters import add_lora
    from lora_adapters.arguments import LoraArguments

    model = add_lora(student, LoraArguments(lora_r=16))    # a `PeftModel`, trained like any other student
    model.merge_and_unload()                               # after training: the plain student with changed weights

An adapter (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685)
adds `lora_alpha / lora_r * B @ A` to a frozen weight matrix, so it needs the exact model that it was trained on. Here
that model is made of layers of a teacher, and no checkpoint holds it. `loading.py` rebuilds it.
"""

import logging
from collections import Counter
from collections.abc import Callable

from datasets import Dataset
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.merging import has_native_adapters
from layer_distillation.model_outputs import MODEL_INPUTS
from lora_adapters.arguments import LoraArguments

logger = logging.getLogger(__name__)

# Training examples that EVA reads. Its directions converge with fewer.
NUM_EVA_EXAMPLES = 1024


def add_lora(
    student: PreTrainedModel,
    lora_args: LoraArguments,
    examples: Dataset | None = None,
    collator: Callable | None = None,
) -> PeftModel:
    """Freezes a student, puts adapters on the linear layers of its encoder, and leaves its head trainable.

    Args:
        student: is changed in place.
        examples, collator: tokenized training examples and what pads them; only `init_lora_weights="eva"` reads them.

    Returns:
        The model to train. The random weights of the adapters are drawn with torch's global seed.

    Raises:
        UserError: the student has adapters already, or as `target_modules`.
    """
    if unwrap_peft_model(student) is not student or has_native_adapters(student):
        raise UserError(
            f"The student must have no adapters, found a {type(student).__name__} with some. Merge them first "
            "(`merge_and_unload`), or train that model as it is."
        )
    initialization = lora_args.init_lora_weights
    targets = target_modules(student, lora_args.lora_target_modules)
    config = LoraConfig(
        r=lora_args.lora_r,
        lora_alpha=lora_args.lora_alpha,
        lora_dropout=lora_args.lora_dropout,
        target_modules=targets,
        modules_to_save=head_modules(student),
        use_dora=lora_args.use_dora,
        use_rslora=lora_args.use_rslora,
        init_lora_weights={"true": True, "false": False}.get(initialization, initialization),
        eva_config=EvaConfig() if initialization == "eva" else None,
        fan_in_fan_out=isinstance(student.get_submodule(targets[0]), Conv1D),
    )
    model = get_peft_model(student, config)
    if student.config.model_type == "reformer":
        # Its reversible layers run their backward pass only if their input needs a gradient: embeddings are frozen.
        student.enable_input_require_grads()
    # PEFT would name the teacher here, and PEFT's loaders would put the adapter on its first layers without an error.
    config.base_model_name_or_path = ""
    if initialization == "eva":
        initialize_lora_eva_weights(model, _batches(examples, collator), show_progress_bar=False)
    return model


def _batches(examples: Dataset, collator: Callable) -> list[dict]:
    """Returns the batches that EVA reads."""
    columns = [name for name in MODEL_INPUTS if name in examples.column_names]
    examples = examples.select_columns(columns).select(range(min(NUM_EVA_EXAMPLES, len(examples))))
    batch_size = min(32, len(examples))  # a smaller last batch could have too few tokens for a decomposition
    return [dict(batch) for batch in DataLoader(examples, batch_size, collate_fn=collator, drop_last=True)]


def target_modules(model: PreTrainedModel, names: str | None = None) -> list[str]:
    """Returns the full names of the linear layers of the encoder. Pooler and head do not belong to the encoder.

    Args:
        names: comma-separated; only layers whose full name ends in one of them are returned. `None`: all.

    Raises:
        UserError: a name fits no linear layer, or the encoder has none that PEFT can adapt.
    """
    prefix = find_layer_list(model)
    linear, shared = _linear_layers(model, prefix)
    if not linear:
        kinds = sorted({type(m).__name__ for m in model.get_submodule(prefix).modules() if _has_matrix(m)})
        raise UserError(
            f"LoRA needs layers of the class Linear or Conv1D, but the encoder of {type(model).__name__} has only "
            f"{', '.join(kinds)}; train the whole student with run_distillation.py."
        )
    if names is None:
        if shared:
            logger.warning(
                "%d linear layers get no adapter, because several layers share their weights: %s, for example.",
                len(shared),
                shared[0],
            )
        return linear
    endings = [name.strip() for name in names.split(",")]
    for ending in endings:
        if not any(f".{name}".endswith(f".{ending}") for name in linear):
            within_layer = dict.fromkeys(name.removeprefix(f"{prefix}.").split(".", 1)[1] for name in linear)
            raise UserError(
                f"--lora_target_modules must name linear layers of the encoder, found {ending!r}. The encoder has "
                f"{', '.join(within_layer)}; leave the option out for all of them."
            )
    return [name for name in linear if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def _linear_layers(model: PreTrainedModel, prefix: str) -> tuple[list[str], list[str]]:
    """Returns the full names of the linear layers that can have an adapter, and of those whose weights are shared.

    Each layer that shares a weight, as in Zamba, would train an adapter of its own, and merging would add all of them
    to the one weight. The routers of experts, which are classes of their own derived from `Linear`, are left alone.
    """
    modules = dict(model.get_submodule(prefix).named_modules(prefix=prefix, remove_duplicate=False))
    linear = {name: module for name, module in modules.items() if type(module) in (nn.Linear, Conv1D)}
    uses = Counter(id(module.weight) for module in linear.values())
    shared = [name for name, module in linear.items() if uses[id(module.weight)] > 1]
    return [name for name in linear if name not in shared], shared


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


def head_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules with weights after the encoder: the pooler, if there is one, and the head."""
    encoder = model.base_model_prefix
    after = [name for name, module in model.named_children() if name != encoder and list(module.parameters())]
    has_pooler = "pooler" in dict(model.base_model.named_children())
    return [f"{encoder}.pooler", *after] if has_pooler else after


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Returns the numbers of trained and of all parameters, without PEFT's frozen second copy of the head."""
    parameters = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
