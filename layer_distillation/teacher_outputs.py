"""Stored teacher outputs: the teacher runs once, and every epoch, seed and strategy trains from what it computed.

    from layer_distillation.teacher_outputs import add_teacher_logits

    train_dataset = add_teacher_logits(train_dataset, teacher, cache_dir="teacher_cache", collator=collator)
    DistillationTrainer(model=student, args=args, train_dataset=train_dataset, ...)   # no teacher_model

A cache is a folder of Arrow files with one `teacher_logits` column (float32), in the order of the data set, read
memory-mapped. The name of the folder is a fingerprint of the teacher (weights, config, classes and plain attributes of
its modules, adapters), the tokenized examples and the precision. Another teacher, other data or another precision look
for another folder. What a class of one's own keeps elsewhere, such as in a list, is not in the fingerprint, nor is the
collator: change `cache_dir` with them.

`add_teacher_hidden_states` stores the outputs of chosen layers, which `hidden_weight` compares. `HiddenStatesCollator`
puts them into batches. They are large, so the caller gives the size that they may have.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from layer_distillation.atomic_files import appearing_when_finished, cannot_keep_outputs, locked
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_outputs
from layer_distillation.model_outputs import check_has_examples, compute_logits, longest_first, outputs_of_batches
from layer_distillation.stored_columns import TEACHER_HIDDEN_STATES, TEACHER_LOGITS
from layer_distillation.student_config import encoder_config

logger = logging.getLogger(__name__)

HIDDEN_STATES_FILE = "hidden_states.arrow"


def add_teacher_logits(
    dataset: Dataset,
    teacher: nn.Module,
    cache_dir: str | Path,
    collator: Callable,
    batch_size: int = 64,
    bf16: bool = False,
) -> Dataset:
    """Returns the data set with a `teacher_logits` column, read from the cache or computed and stored there.

    Several runs may build the same cache at once, and any of them may be interrupted: a cache appears under its name
    only when it is complete.

    Args:
        dataset: tokenized training examples.
        teacher: a classifier; run in `eval()` mode.
        cache_dir: folder of all caches; each is a sub-folder named by its fingerprint.
        collator, batch_size, bf16: as for `compute_logits`.

    Returns:
        The data set with a further column: float32, `(num_labels,)` an example.

    Raises:
        UserError: the folder cannot be written to, which is found before the teacher runs, or the cache is damaged.
    """
    _check_dataset(dataset, TEACHER_LOGITS)
    folder = Path(cache_dir) / fingerprint_outputs(dataset, teacher, bf16)
    if _is_complete(folder):
        logger.info(f"Teacher outputs are read from {folder}; the teacher does not run.")
    else:
        with _one_run_at_a_time(folder):
            if not _is_complete(folder):
                _store_logits(folder, dataset, teacher, collator, batch_size, bf16)
    return _with_columns_of(folder, dataset, lambda: load_from_disk(str(folder)))


def _check_dataset(dataset: Dataset, *added: str) -> None:
    check_has_examples(dataset)
    if "input_ids" not in dataset.column_names:
        raise UserError(
            f"The outputs of a teacher are stored for tokenized texts, but there is no column `input_ids` among "
            f"{', '.join(dataset.column_names)}. Tokenize them with `map`, not with a transform."
        )
    if taken := sorted({*added} & {*dataset.column_names}):
        raise UserError(
            f"The data set has the column {', '.join(taken)} already. Remove it with `remove_columns` to have the "
            "outputs of this teacher instead."
        )


def _is_complete(*folders: Path) -> bool:
    """Returns whether caches are there, one answer for all processes.

    A run that finishes just now, or a disk that not all nodes share, could show the cache to some processes only, and
    the other processes would wait in `compute_logits` forever.
    """
    return all(gather_object([all(folder.is_dir() for folder in folders)]))


@contextmanager
def _one_run_at_a_time(folder: Path) -> Iterator[None]:
    """Has other runs that build the same cache wait: they find it then. The main process holds the lock for all."""
    with ExitStack() as stack:
        if PartialState().is_main_process:
            try:
                stack.enter_context(locked(folder.with_name(f".{folder.name}.lock")))
            except OSError as error:
                raise cannot_keep_outputs(folder.parent, error) from error
        yield


def _store_logits(
    folder: Path, dataset: Dataset, teacher: nn.Module, collator: Callable, batch_size: int, bf16: bool
) -> None:
    logger.info(f"Teacher outputs for {len(dataset):,} examples are computed once and kept in {folder}.")
    # One process of every node writes, because nodes need not share a disk. Where they do, one folder is dropped.
    writes = PartialState().is_local_main_process
    with appearing_when_finished(folder) if writes else nullcontext() as unfinished:
        logits = compute_logits(teacher.eval(), dataset, collator, batch_size, bf16)
        if writes:
            features = Features({TEACHER_LOGITS: List(Value("float32"), length=logits.shape[1])})
            Dataset.from_dict({TEACHER_LOGITS: logits}, features=features).save_to_disk(str(unfinished))
    PartialState().wait_for_everyone()


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
    """Returns the data set with a column `teacher_hidden_states_K` for each chosen layer K, cached as the logits are.

    Every layer has its own cache, so overlapping choices of layers share caches. One process of every node writes them
    while the teacher runs, so that memory does not grow with the data set; the other processes wait.

    Args:
        layers: 1-based numbers of the layers.
        max_bytes: size that the chosen layers may have: tokens x hidden size x 2 x layers.
        dataset, teacher, cache_dir, collator, batch_size, bf16: as for `add_teacher_logits`; the collator makes an
            `attention_mask`.

    Returns:
        The data set with further columns: float16, `(length, hidden_size)` an example, without padding.

    Raises:
        UserError: the teacher lacks one of the layers, the layers would take more than `max_bytes`, float16 cannot
            hold a value, or as for `add_teacher_logits`.
    """
    depth = encoder_config(teacher.config).num_hidden_layers
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(range(1, depth + 1)):
        raise UserError(f"`layers` must be different numbers from 1 to {depth}, the teacher's depth, found {layers}.")
    columns = [TEACHER_HIDDEN_STATES.format(layer=layer) for layer in sorted(layers)]
    _check_dataset(dataset, *columns)
    check_hidden_states_size(dataset, teacher, len(layers), max_bytes)
    fingerprint = fingerprint_outputs(dataset, teacher, bf16)
    folders = {layer: Path(cache_dir) / f"{fingerprint}-hidden-{layer}" for layer in sorted(layers)}
    if not _is_complete(*folders.values()):
        with (
            _one_run_at_a_time(Path(cache_dir) / f"{fingerprint}-hidden"),
            PartialState().local_main_process_first(),
        ):
            _store_hidden_states(folders, dataset, teacher, collator, batch_size, bf16)
    for folder in folders.values():
        file = str(folder / HIDDEN_STATES_FILE)
        dataset = _with_columns_of(folder, dataset, lambda file=file: Dataset.from_file(file))
    # A batch has about a million numbers. Reading them as Python numbers takes longer than a training step.
    return dataset.with_format("numpy", columns=columns, output_all_columns=True)


def _store_hidden_states(
    folders: Mapping[int, Path],
    dataset: Dataset,
    teacher: PreTrainedModel,
    collator: Callable,
    batch_size: int,
    bf16: bool,
) -> None:
    """Stores the hidden states of the layers whose folder, given by their number, is not there yet."""
    missing = {layer: folder for layer, folder in folders.items() if not folder.is_dir()}
    if not missing:
        return
    where = next(iter(missing.values())).parent
    logger.info(f"Teacher hidden states of layers {list(missing)} are computed once and kept in {where}.")
    width = encoder_config(teacher.config).hidden_size
    with ExitStack() as stack:
        writers = [stack.enter_context(_writing(layer, width, folder)) for layer, folder in missing.items()]
        for arrays in _hidden_states(teacher.eval(), dataset, list(missing), collator, batch_size, bf16):
            for write, array in zip(writers, arrays, strict=True):
                write(array)


def hidden_states_size(dataset: Dataset, teacher: PreTrainedModel, num_layers: int) -> int:
    """Returns the number of bytes that `add_teacher_hidden_states` stores for so many layers."""
    width = encoder_config(teacher.config).hidden_size
    return sum(len(ids) for ids in dataset["input_ids"]) * width * 2 * num_layers


def check_hidden_states_size(dataset: Dataset, teacher: PreTrainedModel, num_layers: int, max_bytes: int) -> None:
    """Checks that the hidden states of so many layers take at most `max_bytes`.

    Raises:
        UserError: they take more.
    """
    num_bytes = hidden_states_size(dataset, teacher, num_layers)
    if num_bytes > max_bytes:
        raise UserError(
            f"The hidden states of {num_layers} layers for {len(dataset):,} examples take {num_bytes:,} bytes, but "
            f"{max_bytes:,} are allowed. Raise --hidden_state_cache_gb (`max_bytes`), or choose fewer layers or "
            "examples."
        )


class HiddenStatesCollator:
    """Adds stored hidden states, padded to the length of the batch, to the batch that another collator makes.

    Args:
        collator: makes the batch of all other columns, with an `attention_mask`.
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
    """Yields a function that adds hidden states to the cache of a layer, which appears when the block ends."""
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
    """Yields Arrow columns, one a layer, for consecutive parts of the data set."""
    width, part_size = encoder_config(teacher.config).hidden_size, 16 * batch_size
    for part_start in tqdm(range(0, len(dataset), part_size), desc="Teacher hidden states"):
        part = dataset.select(range(part_start, min(part_start + part_size, len(dataset))))
        states = {layer: [None] * len(part) for layer in layers}
        for indices, batch, outputs in outputs_of_batches(
            teacher, part, longest_first(part), collator, batch_size, bf16=bf16, output_hidden_states=True
        ):
            is_token = batch["attention_mask"].bool().cpu().numpy()
            for layer in layers:
                rows = outputs.hidden_states[layer].half().cpu().numpy()
                for index, row, is_token_of_row in zip(indices, rows, is_token, strict=True):
                    states[layer][index] = row[is_token_of_row]
        offsets = np.cumsum([0, *map(len, states[layers[0]])], dtype=np.int32)
        values = {layer: np.concatenate(rows).ravel() for layer, rows in states.items()}
        for layer in layers:
            if not np.isfinite(values[layer]).all():
                raise UserError(
                    f"The teacher's hidden states of layer {layer} are not finite, or larger than float16 can hold, "
                    "so they cannot be stored. Let the teacher run in every step: --hidden_state_cache_gb 0."
                )
        yield [
            pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(values[layer], width))
            for layer in layers
        ]


def _with_columns_of(folder: Path, dataset: Dataset, read: Callable[[], Dataset]) -> Dataset:
    """Returns the data set with the columns of a cache."""
    # An interrupted build leaves no half-written folder, but an interrupted copy or a crash of the machine may.
    try:
        stored = read()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"The teacher outputs in {folder} are damaged ({error}). Remove that folder: they are then computed again."
        ) from error
    return concatenate_datasets([dataset, stored], axis=1)


def stored_width(dataset: Dataset | TorchDataset | None, teacher_layers: Sequence[int] | None) -> int | None:
    """Returns the width of the teacher's hidden states in a data set, `None` if they are not stored there.

    The first example is read, if there is one, also of a stream.
    """
    if dataset is None or not teacher_layers:
        return None
    example = next(iter(dataset), {})
    column = TEACHER_HIDDEN_STATES.format(layer=teacher_layers[0])
    return len(example[column][0]) if column in example else None


def check_finite(dataset: Dataset | TorchDataset | None) -> None:
    """Checks, before training, that a `teacher_logits` column holds no NaN or infinity, which would ruin the student.

    A check of every batch would wait for the device in every step.

    Raises:
        UserError: it holds some.
    """
    if not isinstance(dataset, Dataset) or TEACHER_LOGITS not in dataset.column_names:
        return
    num_bad = 0
    for table in dataset.select_columns(TEACHER_LOGITS).with_format("arrow").iter(batch_size=10_000):
        values = table[TEACHER_LOGITS].combine_chunks()
        num_bad += values.null_count if pa.types.is_nested(values.type) else 0  # rows, which `flatten` leaves out
        values = values.flatten() if pa.types.is_nested(values.type) else values
        num_bad += np.count_nonzero(~np.isfinite(values.to_numpy(zero_copy_only=False)))
    if num_bad:
        raise UserError(
            f"{num_bad:,} numbers of the `teacher_logits` column are missing, NaN or infinite, which makes the loss "
            "NaN. Compute the column again, with a teacher in float32 that predicts finite logits."
        )
