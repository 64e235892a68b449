"""What a model reads of an example, and its logits for a whole data set."""

import inspect
from collections.abc import Callable

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

# What the teacher reads of an example; labels and lengths do not change its outputs.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def compute_logits(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64, bf16: bool = False
) -> np.ndarray:
    """Runs a classifier over a tokenised data set, shared out over the processes of the launch.

    Args:
        model: in `eval()` mode, the same on every process.
        dataset: with `input_ids` and, where the model reads them, `attention_mask` and `token_type_ids`; other columns
            are left out.
        collator: pads a list of examples into a batch of tensors, for example `DataCollatorWithPadding(tokenizer)`.
        batch_size: examples a forward pass of each process.
        bf16: autocast to bfloat16.

    Returns:
        float32 `(len(dataset), num_labels)` in the data set's order, on every process.
    """
    state = PartialState()
    inputs = dataset.select_columns([name for name in MODEL_INPUTS if name in dataset.column_names])
    lengths = np.array([len(ids) for ids in inputs["input_ids"]])
    # Texts of similar length go together, the longest first, so that running out of memory shows at once.
    by_length = np.argsort(-lengths, kind="stable")[state.process_index :: state.num_processes]
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    device = next(model.parameters()).device
    rows = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for indices in tqdm(batches, desc="Teacher outputs", disable=not state.is_main_process):
            batch = send_to_device(collator(inputs.select(indices).to_list()), device)
            rows.append(model(**batch).logits.float().cpu().numpy())
    parts = gather_object([(by_length, np.concatenate(rows) if rows else None)])
    parts = [(indices, values) for indices, values in parts if values is not None]
    logits = np.empty((len(dataset), parts[0][1].shape[1]), dtype=np.float32)
    for indices, values in parts:
        logits[indices] = values
    return logits


def forward_columns(model: nn.Module) -> set[str]:
    """Names of the inputs of `model.forward`, labels left out: the losses are computed here, once."""
    return set(inspect.signature(unwrap_peft_model(model).forward).parameters) - {"labels", "kwargs"}
