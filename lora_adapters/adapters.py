"""Puts LoRA on a student: low-rank adapters on the linear layers of its encoder. Its head is trained as a whole.

    from lora_adapters.adapters import add_lora
    from lora_adapters.arguments import LoraArguments

    model = add_lora(student, LoraArguments(lora_r=16))    # a `PeftModel`, trained like any other student
    model.merge_and_unload()                               # after training: the plain student with changed weights

An adapter (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685)
adds `lora_alpha / lora_r * B @ A` to a frozen weight matrix, so it needs the exact model that it was trained on. Here
that model is made of layers of a teacher, and no checkpoint holds it. `loading.py` rebuilds it.
"""

from collections.abc import Callable

from datasets import Dataset
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import MODEL_INPUTS
from lora_adapters.arguments import LoraArguments

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
        UserError: `lora_target_modules` names no linear layer of the encoder.
    """
    initialization = lora_args.init_lora_weights
    config = LoraConfig(
        r=lora_args.lora_r,
        lora_alpha=lora_args.lora_alpha,
        lora_dropout=lora_args.lora_dropout,
        target_modules=target_modules(student, lora_args.lora_target_modules),
        modules_to_save=head_modules(student),
        use_dora=lora_args.use_dora,
        use_rslora=lora_args.use_rslora,
        init_lora_weights={"true": True, "false": False}.get(initialization, initialization),
        eva_config=EvaConfig() if initialization == "eva" else None,
    )
    model = get_peft_model(student, config)
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
        UserError: a name fits no linear layer.
    """
    prefix = find_layer_list(model)
    layers = model.get_submodule(prefix).named_modules(prefix=prefix)
    linear = [name for name, module in layers if isinstance(module, nn.Linear)]
    if names is None:
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
