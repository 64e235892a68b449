"""LoRA on a student: low-rank adapters on the linear layers of its encoder, trained together with its whole head.

    model = add_lora(student, lora_args)          # a `PeftModel`, trained like any other student
    model = load_adapter("outputs/my-run")        # later, anywhere: the student rebuilt from its teacher, adapter on
    model.merge_and_unload()                      # the plain student with the adapter's changes in its weights

An adapter (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685)
adds `lora_alpha / lora_r * B @ A` to a frozen weight matrix. An adapter belongs to one exact model. Here the model
is no checkpoint: it consists of chosen layers of a teacher. So the record of a run names the teacher and the layers,
and `load_adapter` rebuilds the student from them.
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

# Examples whose activations EVA reads. Its directions converge with fewer.
NUM_EVA_EXAMPLES = 1024


def add_lora(
    student: PreTrainedModel,
    lora_args: LoraArguments,
    examples: Dataset | None = None,
    collator: Callable | None = None,
) -> PeftModel:
    """Freezes a student, puts adapters on the linear layers of its encoder, and leaves its head trainable.

    Args:
        student: changed in place.
        examples, collator: tokenized training examples and what pads them; read by `init_lora_weights="eva"` alone.

    Returns:
        The model to train: the adapters' random weights are drawn with torch's global seed.

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
    # PEFT would name the teacher, and its own loaders put the adapter on the teacher's first layers without an error.
    config.base_model_name_or_path = ""
    if initialization == "eva":
        initialize_lora_eva_weights(model, _batches(examples, collator), show_progress_bar=False)
    return model


def _batches(examples: Dataset, collator: Callable) -> list[dict]:
    columns = [name for name in MODEL_INPUTS if name in examples.column_names]
    examples = examples.select_columns(columns).select(range(min(NUM_EVA_EXAMPLES, len(examples))))
    batch_size = min(32, len(examples))  # a last batch of few tokens would not do for a decomposition
    return [dict(batch) for batch in DataLoader(examples, batch_size, collate_fn=collator, drop_last=True)]


def target_modules(model: PreTrainedModel, names: str | None = None) -> list[str]:
    """Returns the full names of the linear maps of the encoder's layers, which do not include pooler and head.

    Args:
        names: ends of names, separated by commas, to choose among them; `None` for all.

    Raises:
        UserError: a name fits no linear map.
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
                f"--lora_target_modules must name linear maps of the encoder, {', '.join(within_layer)}, found "
                f"{ending!r}. Leave the option out for all."
            )
    return [name for name in linear if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def head_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules with weights after the encoder: the pooler if there is one, and the head."""
    encoder = model.base_model_prefix
    after = [name for name, module in model.named_children() if name != encoder and list(module.parameters())]
    return [f"{encoder}.pooler", *after] if getattr(model.base_model, "pooler", None) is not None else after


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Returns the numbers of trained and of all parameters, without PEFT's frozen second copy of the head."""
    parameters = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
