"""Precomputed teacher outputs: run the teacher once, train from its outputs in every later epoch, seed and strategy.

    from teacher_cache import add_teacher_logits

    train_dataset = add_teacher_logits(train_dataset, teacher, cache_dir="teacher_cache", collator=collator)
    DistillationTrainer(model=student, args=args, train_dataset=train_dataset, ...)   # no teacher_model

The cache is a folder of Arrow files with one `teacher_logits` column (float32), in the order of the data set, read
memory-mapped. Its name is a fingerprint of the teacher's weights, the tokenised examples and the precision, so that a
stale cache cannot be mistaken for a fresh one: another teacher or other data look for another folder.

`add_teacher_hidden_states` does the same for the outputs of chosen layers, which `hidden_weight` compares; batches of
them are made by `HiddenStatesCollator`. They are large, so the size has to be allowed for.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from filelock import FileLock, Timeout
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TEACHER_LOGITS = "teacher_logits"
TEACHER_HIDDEN_STATES = "teacher_hidden_states_{layer}"
HIDDEN_STATES_FILE = "hidden_states.arrow"
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

    Raises:
        ValueError: the folder cannot be written to, which shows before the teacher runs, or what it holds is damaged.
    """
    folder = Path(cache_dir) / _fingerprint(dataset, teacher, bf16)
    # One answer for all processes, or those that see no cache (of a run that finishes just now, of another node) would
    # wait in `compute_logits` for those that do.
    if all(gather_object([folder.is_dir()])):
        logger.info(f"Teacher outputs are read from {folder}; the teacher does not run.")
    else:
        logger.info(f"Teacher outputs for {len(dataset):,} examples are computed once and kept in {folder}.")
        # One process of every node, as nodes need not share a disk; where they do, the second folder is dropped.
        writes = PartialState().is_local_main_process
        with _appearing_when_finished(folder) if writes else nullcontext() as unfinished:
            logits = compute_logits(teacher.eval(), dataset, collator, batch_size, bf16)
            if writes:
                features = Features({TEACHER_LOGITS: List(Value("float32"), length=logits.shape[1])})
                Dataset.from_dict({TEACHER_LOGITS: logits}, features=features).save_to_disk(str(unfinished))
        PartialState().wait_for_everyone()
    return _with_columns_of(folder, dataset, lambda: load_from_disk(str(folder)))


def add_teacher_hidden_states(
    dataset: Dataset,
    teacher: PreTrainedModel,
    layers: Sequence[int],
    cache_dir: str | Path,
    collator: Callable,
    max_bytes: int,
    batch_size: int = 64,
    bf16: bool = False,
) -> Dataset:
    """The data set with a column `teacher_hidden_states_K` for each chosen layer K, cached as the logits are.

    A column holds float16 `(length, hidden_size)` an example, without padding. It is written while the teacher runs,
    so that memory stays flat, by one process of every node, for which the others wait. Every layer has a cache of its
    own, so that choices of layers that overlap share them.

    Args:
        layers: 1-based numbers of the layers.
        max_bytes: how much the chosen layers may take: tokens x hidden size x 2 x layers.
        dataset, teacher, cache_dir, collator, batch_size, bf16: as for `add_teacher_logits`; the collator makes an
            `attention_mask`.

    Raises:
        ValueError: the teacher lacks one of the layers, they would take more than `max_bytes`, or as for
            `add_teacher_logits`.
    """
    depth, width = teacher.config.num_hidden_layers, teacher.config.hidden_size
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(range(1, depth + 1)):
        raise ValueError(f"`layers` must be different numbers from 1 to {depth}, the teacher's depth; found {layers}.")
    check_hidden_states_size(dataset, teacher, len(layers), max_bytes)
    fingerprint = _fingerprint(dataset, teacher, bf16)
    folders = {layer: Path(cache_dir) / f"{fingerprint}-hidden-{layer}" for layer in sorted(layers)}
    with PartialState().local_main_process_first():
        missing = [layer for layer, folder in folders.items() if not folder.is_dir()]
        if missing:
            logger.info(f"Teacher hidden states of layers {missing} are computed once and kept in {cache_dir}.")
            with ExitStack() as stack:
                writers = [stack.enter_context(_writing(layer, width, folders[layer])) for layer in missing]
                for arrays in _hidden_states(teacher.eval(), dataset, missing, collator, batch_size, bf16):
                    for write, array in zip(writers, arrays, strict=True):
                        write(array)
    for folder in folders.values():
        file = str(folder / HIDDEN_STATES_FILE)
        dataset = _with_columns_of(folder, dataset, lambda file=file: Dataset.from_file(file))
    columns = [TEACHER_HIDDEN_STATES.format(layer=layer) for layer in folders]
    # As Python numbers, of which a batch has a million, they would take longer to read than the student to train.
    return dataset.with_format("numpy", columns=columns, output_all_columns=True)


def hidden_states_size(dataset: Dataset, teacher: PreTrainedModel, num_layers: int) -> int:
    """How many bytes `add_teacher_hidden_states` stores for so many layers."""
    return sum(len(ids) for ids in dataset["input_ids"]) * teacher.config.hidden_size * 2 * num_layers


def check_hidden_states_size(dataset: Dataset, teacher: PreTrainedModel, num_layers: int, max_bytes: int) -> None:
    """Raises a `ValueError` if the hidden states of so many layers would take more than is allowed."""
    num_bytes = hidden_states_size(dataset, teacher, num_layers)
    if num_bytes > max_bytes:
        raise ValueError(
            f"The hidden states of {num_layers} layers for {len(dataset):,} examples take {num_bytes:,} bytes, but "
            f"{max_bytes:,} are allowed. Raise `max_bytes` (--hidden_state_cache_gb) if there is room, or choose "
            "fewer layers or examples."
        )


class HiddenStatesCollator:
    """Pads stored hidden states of a teacher to the length of the batch, beside what another collator makes.

    Args:
        collator: of everything else; makes an `attention_mask`.
    """

    def __init__(self, collator: Callable):
        self.collator = collator

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        prefix = TEACHER_HIDDEN_STATES.format(layer="")
        columns = [name for name in examples[0] if name.startswith(prefix)]
        batch = self.collator([{name: row[name] for name in row if name not in columns} for row in examples])
        for name in columns:
            states = torch.cat([torch.as_tensor(row[name], dtype=torch.float16) for row in examples])
            batch[name] = torch.zeros(*batch["input_ids"].shape, states.shape[-1], dtype=torch.float16)
            batch[name][batch["attention_mask"].bool()] = states
        return batch


@contextmanager
def _writing(layer: int, width: int, folder: Path) -> Iterator[Callable[[pa.Array], None]]:
    """Gives a function that adds hidden states to the cache of a layer, which appears when the block ends."""
    schema = Features(
        {TEACHER_HIDDEN_STATES.format(layer=layer): List(List(Value("float16"), length=width))}
    ).arrow_schema
    with (
        _appearing_when_finished(folder) as unfinished,
        pa.ipc.new_stream(unfinished / HIDDEN_STATES_FILE, schema) as stream,
    ):
        yield lambda states: stream.write_batch(pa.record_batch([states], schema=schema))


def _hidden_states(
    teacher: PreTrainedModel, dataset: Dataset, layers: Sequence[int], collator: Callable, batch_size: int, bf16: bool
) -> Iterator[list[pa.Array]]:
    """Arrow columns, one a layer, for one part of the data set after the other, in its order."""
    inputs = dataset.select_columns([name for name in MODEL_INPUTS if name in dataset.column_names])
    device, width, part_size = next(teacher.parameters()).device, teacher.config.hidden_size, 16 * batch_size
    for part_start in tqdm(range(0, len(inputs), part_size), desc="Teacher hidden states"):
        part = inputs.select(range(part_start, min(part_start + part_size, len(inputs))))
        lengths = [len(ids) for ids in part["input_ids"]]
        by_length = sorted(range(len(part)), key=lambda i: -lengths[i])
        states = {layer: [None] * len(part) for layer in layers}
        for start in range(0, len(part), batch_size):
            indices = by_length[start : start + batch_size]
            batch = send_to_device(collator(part.select(indices).to_list()), device)
            with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                outputs = teacher(**batch, output_hidden_states=True).hidden_states
            is_token = batch["attention_mask"].bool().cpu().numpy()
            for layer in layers:
                rows = outputs[layer].half().cpu().numpy()
                for index, row, own in zip(indices, rows, is_token, strict=True):
                    states[layer][index] = row[own]
        offsets = np.cumsum([0, *map(len, states[layers[0]])], dtype=np.int32)
        values = {layer: np.concatenate(rows).ravel() for layer, rows in states.items()}
        for layer in layers:
            if not np.isfinite(values[layer]).all():
                raise ValueError(
                    f"The teacher's hidden states of layer {layer} are not finite, or larger than float16 can hold, "
                    "which they are stored in. Have the teacher run in every step: --hidden_state_cache_gb 0."
                )
        yield [
            pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(values[layer], width))
            for layer in layers
        ]


def _with_columns_of(folder: Path, dataset: Dataset, read: Callable[[], Dataset]) -> Dataset:
    # No interrupted build leaves a folder half-written, but an interrupted copy or a crash of the machine may.
    try:
        stored = read()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"The teacher outputs in {folder} are damaged ({error}). Remove that folder, and they are computed again."
        ) from error
    return concatenate_datasets([dataset, stored], axis=1)


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


@contextmanager
def _appearing_when_finished(folder: Path) -> Iterator[Path]:
    """A folder to write to, which gets its name when everything in it is written."""
    unfinished = folder.parent / f".unfinished-{uuid.uuid4().hex}"
    lock = FileLock(f"{unfinished}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        lock.acquire()
        unfinished.mkdir()
    except OSError as error:
        raise ValueError(
            f"Teacher outputs cannot be kept in {folder.parent}: {error}. Choose another folder (--teacher_cache_dir)."
        ) from error
    try:
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            # Renaming onto a folder fails when another run was quicker; its outputs are the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _remove_abandoned(cache_dir: Path) -> None:
    """Removes what killed builds have left, which may be large. The lock of a build ends with its process."""
    for file in cache_dir.glob(".unfinished-*.lock"):
        try:
            with FileLock(file, blocking=False):
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink(missing_ok=True)
        except Timeout:
            logger.debug(f"{file} belongs to a build that is under way.")
