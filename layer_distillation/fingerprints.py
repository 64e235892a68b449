"""SHA-256 of weights and of data: what stored outputs, teachers and records are told apart by."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn

from layer_distillation.model_outputs import MODEL_INPUTS

# What a config says about where it comes from.
INCIDENTAL_CONFIG_ENTRIES = ("_name_or_path", "transformers_version", "architectures")


def fingerprint_model(model: nn.Module) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of every parameter and persistent buffer, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_dataset(dataset: Dataset, columns: tuple[str, ...] = MODEL_INPUTS) -> str:
    """SHA-256 of the named columns' values in order, in hexadecimal; columns that the data set lacks are left out."""
    digest = hashlib.sha256()
    columns = [name for name in columns if name in dataset.column_names]
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        for name in columns:
            values = table[name].combine_chunks()
            if isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
                digest.update(pa.compute.list_value_length(values).to_numpy(zero_copy_only=False))
                values = values.flatten()
            digest.update(f"{name} {values.type}\n".encode())
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)))
    return digest.hexdigest()


def fingerprint_outputs(dataset: Dataset, teacher: nn.Module, bf16: bool) -> str:
    # The same weights compute something else with another number of attention heads, for example.
    config = {name: value for name, value in teacher.config.to_dict().items() if name not in INCIDENTAL_CONFIG_ENTRIES}
    parts = (
        fingerprint_model(teacher),
        json.dumps(config, sort_keys=True, default=str),
        fingerprint_dataset(dataset),
        "bf16" if bf16 else "float32",
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
