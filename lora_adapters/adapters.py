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
from collections.abc import Callable, Mapping, Sequence

import torch
from datasets import Dataset
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.utils import ModulesToSaveWrapper
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.encoder_layers import blueprint, find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.merging import has_native_adapters
from layer_distillation.model_outputs import with_model_inputs
from layer_distillation.student_config import config_of_layers
from lora_adapters.arguments import LoraArguments

logger = logging.getLogger(__name__)

# Stands where PEFT would name the teacher, on whose first layers its loaders would put the adapter without an error.
BASE_MODEL = "the student that lora_adapters.loading.load_adapter rebuilds"
# The classes of linear layers that PEFT can adapt.
LINEAR = (nn.Linear, Conv1D)
# What maps that choose experts or tokens are called. An adapter would change the choice, and no gradient passes it.
ROUTERS = ("router", "router_gate", "gate", "indexer")
# Maps that no text passes: Jamba multiplies by the weight itself, and LUKE calls these for entities.
NOT_CALLED = ("dt_proj", "w2e_query", "e2w_query", "e2e_query")
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
        UserError: the student has adapters already, or as `adapted_modules`.
    """
    if unwrap_peft_model(student) is not student or has_native_adapters(student):
        raise UserError(
            f"The student must have no adapters, found a {type(student).__name__} with some. Merge them first "
            "(`merge_and_unload`), or train that model as it is."
        )
    initialization = lora_args.init_lora_weights
    targets, heads = adapted_modules(student, lora_args), head_modules(student)
    config = LoraConfig(
        r=lora_args.lora_r,
        lora_alpha=lora_args.lora_alpha,
        lora_dropout=lora_args.lora_dropout,
        target_modules=targets,
        modules_to_save=heads,
        use_dora=lora_args.use_dora,
        use_rslora=lora_args.use_rslora,
        init_lora_weights={"true": True, "false": False}.get(initialization, initialization),
        eva_config=EvaConfig() if initialization == "eva" else None,
        fan_in_fan_out=isinstance(student.get_submodule(targets[0]), Conv1D),
    )
    model = get_peft_model(student, config)
    # PEFT takes the names for ends of names: ModernVBERT has a `head` in the part that reads images, too.
    for name, module in student.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and name not in heads:
            module.requires_grad_(False)
    if student.config.model_type == "reformer":
        # Its reversible layers run their backward pass only if their input needs a gradient: embeddings are frozen.
        student.enable_input_require_grads()
    config.base_model_name_or_path = BASE_MODEL
    share, without = coverage(student, targets)
    logger.info(
        f"LoRA: {len(targets)} linear layers get an adapter, with {share:.0%} of the weights of the student's layers."
        + (f" Without one: {', '.join(f'{name} ({reason})' for name, reason in without.items())}." if without else "")
    )
    if initialization == "eva":
        initialize_lora_eva_weights(model, _batches(examples, collator), show_progress_bar=False)
    return model


def _batches(examples: Dataset, collator: Callable) -> list[dict]:
    """Returns the batches that EVA reads."""
    examples = with_model_inputs(examples).select(range(min(NUM_EVA_EXAMPLES, len(examples))))
    batch_size = min(32, len(examples))  # a smaller last batch could have too few tokens for a decomposition
    return [dict(batch) for batch in DataLoader(examples, batch_size, collate_fn=collator, drop_last=True)]


def adapted_modules(model: PreTrainedModel, lora_args: LoraArguments) -> list[str]:
    """Returns the full names of the linear layers that get an adapter.

    Raises:
        UserError: see `target_modules`; or PEFT cannot start adapters on one of them in the way that is asked for.
    """
    targets = target_modules(model, lora_args.lora_target_modules)
    # PEFT takes the transposed weight for the weight. Where its sides are equal, the student would start broken.
    conv1d = [name for name in targets if isinstance(model.get_submodule(name), Conv1D)]
    if conv1d and lora_args.init_lora_weights == "olora":
        raise UserError(
            f"--init_lora_weights olora needs layers of the class Linear, but {conv1d[0]} of {type(model).__name__} "
            "is a Conv1D. Choose another initialization, such as pissa."
        )
    return targets


def target_modules(model: PreTrainedModel, names: str | None = None) -> list[str]:
    """Returns the full names of the linear layers of the encoder that can have an adapter (see `_why_none`).

    Pooler and head do not belong to the encoder.

    Args:
        names: comma-separated; only layers whose full name ends in one of them are returned. `None`: all.

    Raises:
        UserError: a name fits no linear layer, or the encoder has none that PEFT can adapt.
    """
    prefix = find_layer_list(model)
    linear = _linear_layers(model, prefix)
    if not linear:
        kinds = sorted({type(m).__name__ for m in model.get_submodule(prefix).modules() if _has_matrix(m)})
        raise UserError(
            f"LoRA needs layers of the class Linear or Conv1D, but the encoder of {type(model).__name__} has only "
            f"{', '.join(kinds)}; train the whole student with run_distillation.py."
        )
    if names is None:
        return linear
    endings = [name.strip() for name in names.split(",")]
    for ending in endings:
        if not any(f".{name}".endswith(f".{ending}") for name in linear):
            names_in_layer = dict.fromkeys(within_layer(name, prefix) for name in linear)
            raise UserError(
                f"--lora_target_modules must name linear layers of the encoder, found {ending!r}. The encoder has "
                f"{', '.join(names_in_layer)}; leave the option out for all of them."
            )
    return [name for name in linear if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def coverage(model: PreTrainedModel, targets: Sequence[str]) -> tuple[float, dict[str, str]]:
    """Returns how much of the layers adapters on the targets reach.

    Args:
        model: without adapters.
        targets: full names of linear layers.

    Returns:
        The share of the numbers in the matrices of the layers that belong to a target, and why the other matrices have
        no adapter, by their names within a layer.
    """
    prefix = find_layer_list(model)
    matrices = {
        name: parameter
        for name, parameter in model.get_submodule(prefix).named_parameters(prefix=prefix)
        if parameter.dim() > 1
    }
    adapted = {id(model.get_submodule(name).weight) for name in targets}
    num_adapted = sum(parameter.numel() for parameter in matrices.values() if id(parameter) in adapted)
    uses = _uses_of_weights(model, prefix)
    without = {}
    for name, parameter in matrices.items():
        if id(parameter) not in adapted:
            owner = name.rpartition(".")[0]
            reason = _why_none(owner, model.get_submodule(owner), uses) or "not among --lora_target_modules"
            without[within_layer(name, prefix).removesuffix(".weight")] = reason
    return num_adapted / sum(parameter.numel() for parameter in matrices.values()), without


def within_layer(name: str, prefix: str) -> str:
    """Returns the name that a module has within its layer: `output.dense` for `bert.encoder.layer.0.output.dense`."""
    return name.removeprefix(f"{prefix}.").split(".", 1)[1]


def _linear_layers(model: PreTrainedModel, prefix: str) -> list[str]:
    """Returns the full names of the linear layers that can have an adapter."""
    modules = dict(model.get_submodule(prefix).named_modules(prefix=prefix, remove_duplicate=False))
    uses = _uses_of_weights(model, prefix)
    return [name for name, module in modules.items() if _why_none(name, module, uses) is None]


def _uses_of_weights(model: PreTrainedModel, prefix: str) -> Counter:
    """Returns how many linear layers share a weight, by the `id` of the weight."""
    modules = dict(model.get_submodule(prefix).named_modules(remove_duplicate=False)).values()
    return Counter(id(module.weight) for module in modules if isinstance(module, LINEAR))


def _why_none(name: str, module: nn.Module, uses: Mapping[int, int]) -> str | None:
    """Returns why a module can have no adapter, `None` if it can.

    Each layer that shares a weight, as in Zamba, would train an adapter of its own, and merging would add all of them
    to the one weight.

    Args:
        name: its full name.
        uses: from `_uses_of_weights`.
    """
    parts = set(name.split("."))
    if parts.intersection(ROUTERS):
        return "chooses experts or tokens"
    if parts.intersection(NOT_CALLED):
        return "no text passes it"
    if not isinstance(module, LINEAR):
        return f"held by {type(module).__name__}, no linear layer"
    return "layers share it" if uses[id(module.weight)] > 1 else None


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


def head_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules with weights after the encoder: the pooler, if it is read, and the head."""
    encoder = model.base_model_prefix
    after = [name for name, module in model.named_children() if name != encoder and list(module.parameters())]
    return [f"{encoder}.pooler", *after] if _reads_pooler(model) else after


def _reads_pooler(model: PreTrainedModel) -> bool:
    """Returns whether the encoder has a pooler whose output the head reads. BigBird has one that is computed in vain.

    A copy with one layer and zeros as weights is run, because texts may change a model: BigBird's attention.
    """
    if "pooler" not in dict(model.base_model.named_children()):
        return False
    copy = blueprint(model, config_of_layers(model.config, [0]))
    copy._apply(lambda tensor: torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor)
    input_ids = torch.full((1, 32), (model.config.pad_token_id or 0) + 1)
    copy.eval()(input_ids=input_ids).logits.sum().backward()
    return any(parameter.grad is not None for parameter in copy.base_model.pooler.parameters())


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Returns the numbers of trained and of all parameters, without PEFT's frozen second copy of the head."""
    parameters = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
