"""Precomputed teacher outputs: run the teacher once, train from its outputs in every later epoch, seed and strategy.

    from teacher_cache import add_teacher_logits

    train_dataset = add_teacher_logits(train_dataset, teacher, cache_dir="teacher_cache", collator=collator)
    DistillationTrainer(model=student, args=args, train_dataset=train_dataset, ...)   # no teacher_model

The cache is a folder of Arrow files with one `teacher_logits` column (float32), in the order of the data set, read
memory-mapped. Its name is a fingerprint of the teacher's weights, the tokenised examples and the precision, so that a
stale cache cannot be mistaken for a fresh one: another teacher or other data look for another folder.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TEACHER_LOGITS = "teacher_logits"
# What the teacher reads of an example; labels and lengths do not change its outputs.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
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


def compute_logits(
    model: PreTrainedModel, dataset: Dataset, collator: Callable, batch_size: int = 64, bf16: bool = False
) -> np.ndarray:
    """Runs a classifier over a tokenised data set, shared out over the processes of the launch.

    Args:
        model: in `eval()` mode, the same on every process.
        dataset: with `input_ids` and whatever else the model reads; other columns are left out.
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


def add_teacher_logits(
    dataset: Dataset,
    teacher: PreTrainedModel,
    cache_dir: str | Path,
    collator: Callable,
    batch_size: int = 64,
    bf16: bool = False,
) -> Dataset:
    """The data set with a `teacher_logits` column, from the cache if it holds these outputs, else computed and kept.

    Args:
        dataset: tokenised training examples.
        teacher: a classifier; run in `eval()` mode.
        cache_dir: folder of all caches; each is a sub-folder named by its fingerprint.
        collator, batch_size, bf16: as for `compute_logits`.

    Safe when several runs build the same cache at once, and when one is interrupted: a cache appears under its name
    only when it is complete.
    """
    folder = Path(cache_dir) / _fingerprint(dataset, teacher, bf16)
    # One answer for all processes, or those that see no cache (of a run that finishes just now, of another node) would
    # wait in `compute_logits` for those that do.
    if all(gather_object([folder.is_dir()])):
        logger.info(f"Teacher outputs are read from {folder}; the teacher does not run.")
    else:
        logger.info(f"Teacher outputs for {len(dataset):,} examples are computed once and kept in {folder}.")
        logits = compute_logits(teacher.eval(), dataset, collator, batch_size, bf16)
        # One process of every node, as nodes need not share a disk; where they do, the second folder is dropped.
        if PartialState().is_local_main_process:
            _write(logits, folder)
        PartialState().wait_for_everyone()
    return concatenate_datasets([dataset, load_from_disk(str(folder))], axis=1)


def _fingerprint(dataset: Dataset, teacher: nn.Module, bf16: bool) -> str:
    # The same weights compute something else with another number of attention heads, for example.
    config = {name: value for name, value in teacher.config.to_dict().items() if name not in INCIDENTAL_CONFIG_ENTRIES}
    parts = (
        fingerprint_model(teacher),
        json.dumps(config, sort_keys=True, default=str),
        fingerprint_dataset(dataset),
        "bf16" if bf16 else "float32",
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


def _write(logits: np.ndarray, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".unfinished-{uuid.uuid4().hex}"
    try:
        features = Features({TEACHER_LOGITS: List(Value("float32"), length=logits.shape[1])})
        Dataset.from_dict({TEACHER_LOGITS: logits}, features=features).save_to_disk(str(unfinished))
        unfinished.rename(folder)
    except OSError:
        # Renaming onto a folder fails when another run was quicker; its outputs are the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
