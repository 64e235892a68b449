"""Precomputed teacher outputs: run the teacher once, train from its outputs in every later epoch, seed and strategy.

    from layer_distillation.teacher_outputs import add_teacher_logits

    train_dataset = add_teacher_logits(train_dataset, teacher, cache_dir="teacher_cache", collator=collator)
    DistillationTrainer(model=student, args=args, train_dataset=train_dataset, ...)   # no teacher_model

The cache is a folder of Arrow files with one `teacher_logits` column (float32), in the order of the data set, read
memory-mapped. Its name is a fingerprint of the teacher's weights, the tokenised examples and the precision, so that a
stale cache cannot be mistaken for a fresh one: another teacher or other data look for another folder.

`add_teacher_hidden_states` does the same for the outputs of chosen layers, which `hidden_weight` compares; batches of
them are made by `HiddenStatesCollator`. They are large, so the size has to be allowed for.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from layer_distillation.atomic_files import appearing_when_finished
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_outputs
from layer_distillation.model_outputs import MODEL_INPUTS, compute_logits

logger = logging.getLogger(__name__)

TEACHER_LOGITS = "teacher_logits"
TEACHER_HIDDEN_STATES = "teacher_hidden_states_{layer}"
HIDDEN_STATES_FILE = "hidden_states.arrow"


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
        UserError: the folder cannot be written to, which shows before the teacher runs, or what it holds is damaged.
    """
    folder = Path(cache_dir) / fingerprint_outputs(dataset, teacher, bf16)
    # One answer for all processes, or those that see no cache (of a run that finishes just now, of another node) would
    # wait in `compute_logits` for those that do.
    if all(gather_object([folder.is_dir()])):
        logger.info(f"Teacher outputs are read from {folder}; the teacher does not run.")
    else:
        logger.info(f"Teacher outputs for {len(dataset):,} examples are computed once and kept in {folder}.")
        # One process of every node, as nodes need not share a disk; where they do, the second folder is dropped.
        writes = PartialState().is_local_main_process
        with appearing_when_finished(folder) if writes else nullcontext() as unfinished:
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
        UserError: the teacher lacks one of the layers, they would take more than `max_bytes`, or as for
            `add_teacher_logits`.
    """
    depth, width = teacher.config.num_hidden_layers, teacher.config.hidden_size
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(range(1, depth + 1)):
        raise UserError(f"`layers` must be different numbers from 1 to {depth}, the teacher's depth; found {layers}.")
    check_hidden_states_size(dataset, teacher, len(layers), max_bytes)
    fingerprint = fingerprint_outputs(dataset, teacher, bf16)
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
    """Raises a `UserError` if the hidden states of so many layers would take more than is allowed."""
    num_bytes = hidden_states_size(dataset, teacher, num_layers)
    if num_bytes > max_bytes:
        raise UserError(
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
        appearing_when_finished(folder) as unfinished,
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
                raise UserError(
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
        raise UserError(
            f"The teacher outputs in {folder} are damaged ({error}). Remove that folder, and they are computed again."
        ) from error
    return concatenate_datasets([dataset, stored], axis=1)


def stored_width(dataset, teacher_layers: Sequence[int] | None) -> int | None:
    """The width of the teacher's hidden states in the data set, if they are stored there."""
    column = TEACHER_HIDDEN_STATES.format(layer=teacher_layers[0]) if teacher_layers else None
    names = getattr(dataset, "column_names", None) or []
    return len(dataset[0][column][0]) if column in names else None


def check_finite(dataset) -> None:
    """Raises a `UserError` if a `teacher_logits` column holds NaN or infinity, which would ruin the student at once.

    Once, before the training: a look at every batch would wait for the device in every step.
    """
    if not isinstance(dataset, Dataset) or TEACHER_LOGITS not in dataset.column_names:
        return
    num_bad = 0
    for table in dataset.select_columns(TEACHER_LOGITS).with_format("arrow").iter(batch_size=10_000):
        values = table[TEACHER_LOGITS].combine_chunks()
        values = values.flatten() if pa.types.is_nested(values.type) else values
        num_bad += np.count_nonzero(~np.isfinite(values.to_numpy(zero_copy_only=False)))
    if num_bad:
        raise UserError(
            f"{num_bad:,} numbers of the `teacher_logits` column are missing, NaN or infinite, and the loss would be "
            "too. Compute them again, with a teacher in float32 whose own predictions are sound."
        )
