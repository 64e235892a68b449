"""Fingerprints: hashes that tell apart teachers, data, and the stored outputs of a teacher.

from layer_distillation.fingerprints import fingerprint_dataset, fingerprint_model, fingerprint_outputs

fingerprint_model(teacher), fingerprint_dataset(tokenized)    # in the record of a run
fingerprint_outputs(tokenized, teacher, bf16=False)           # names the folder of stored teacher outputs
"""

import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.dropout import dropout_rates
from layer_distillation.merging import has_native_adapters
from layer_distillation.model_outputs import MODEL_INPUTS, columns_read_by, config_of, plain_attributes, plain_model

# Config entries and attributes that say where a model comes from or is used, and do not change what it computes.
INCIDENTAL_CONFIG_ENTRIES = ("_name_or_path", "transformers_version", "architectures")
# RoPE with a dynamic length notes the longest text so far.
INCIDENTAL_ATTRIBUTES = ("name_or_path", "training", "gradient_checkpointing", "max_seq_len_cached")


def fingerprint_model(model: nn.Module) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and bytes of parameters and persistent buffers, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor) and not value.is_quantized:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        else:  # of a quantized model
            file = io.BytesIO()
            torch.save(value, file)
            digest.update(f"{name}\n".encode() + file.getvalue())
    return digest.hexdigest()


def fingerprint_dataset(dataset: Dataset, columns: tuple[str, ...] = MODEL_INPUTS) -> str:
    """Returns the SHA-256 of the values of these columns in order, in hexadecimal, as far as the data set has them."""
    digest = hashlib.sha256()
    columns = [name for name in columns if name in dataset.column_names]
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        for name in columns:
            values = table[name].combine_chunks()
            while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
                digest.update(pa.compute.list_value_length(values).to_numpy(zero_copy_only=False))
                values = values.flatten()
            digest.update(f"{name} {values.type}\n".encode())
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)))
    return digest.hexdigest()


def fingerprint_outputs(dataset: Dataset, teacher: nn.Module, bf16: bool) -> str:
    """Returns 32 hexadecimal digits that tell apart the outputs of a teacher for a data set."""
    # With another config, such as another number of attention heads, the same weights compute something else.
    config = config_of(teacher)
    entries = {} if config is None else config.to_dict()
    entries = {name: value for name, value in entries.items() if name not in INCIDENTAL_CONFIG_ENTRIES}
    parts = (
        fingerprint_model(teacher),
        json.dumps(entries, sort_keys=True, default=str),
        json.dumps(_modules(teacher)),
        fingerprint_dataset(dataset, columns_read_by(teacher)),
        "bf16" if bf16 else "float32",
        *_adapter_settings(teacher),
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


def _modules(model: nn.Module) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns path, class and plain attributes of every module: a class of one's own may compute something else.

    Without rates of dropout, which change nothing in a teacher.
    """
    rates = {(id(module), name) for module, name, _ in dropout_rates(model)}
    return [
        (
            path,
            f"{type(module).__module__}.{type(module).__qualname__}",
            {
                name: value
                for name, value in sorted(plain_attributes(module).items())
                if name not in INCIDENTAL_ATTRIBUTES and (id(module), name) not in rates
            },
        )
        for path, module in model.named_modules()
    ]


def _adapter_settings(model: nn.Module) -> tuple[str, ...]:
    """Returns the settings of PEFT's adapters that are not in their weights: which are in use, and at which scale.

    Nothing for a model without adapters.
    """
    is_peft_model = unwrap_peft_model(model) is not model
    if not is_peft_model and not has_native_adapters(model):
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    holder = model if is_peft_model else plain_model(model)
    configs = {name: config.to_dict() for name, config in holder.peft_config.items()}
    in_use = [
        (name, module.disable_adapters, list(module.active_adapters), vars(module).get("scaling"))  # IA3 has no scale
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    as_text = json.dumps(
        [configs, in_use],
        sort_keys=True,
        default=lambda value: sorted(value) if isinstance(value, set) else str(value),
    )
    return as_text, str(model.active_adapter) if is_peft_model else ""  # of prompts, which are no modules
