"""The output folder of a run: refuses other folders, tells finished runs from interrupted ones, keeps the record.

    with claimed(training_args):    # no other run works in the folder
        checkpoint = checkpoint_to_resume(training_args.output_dir, record)

`distillation.json` is the record of a finished run, with its results. A run that is not finished has a record of its
own beside it, so that what an earlier run has left stays as it is until the new one ends. A folder that is not empty
and has neither record is no run of this project, and is left as it is.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import PartialState
from filelock import Timeout
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from layer_distillation.atomic_files import (
    LOCK_FILE,
    check_writable,
    locked,
    make_readable,
    remove_half_written,
    replacing,
)
from layer_distillation.errors import UserError
from layer_distillation.pretrained import ADAPTER_FILE
from layer_distillation.processes import on_main_process
from layer_distillation.record import RECORD_FILE, UNFINISHED_RECORD_FILE, RunRecord
from text_data.thresholds import THRESHOLDS_FILE

logger = logging.getLogger(__name__)

COMPLETE_MARK = "complete"
# What a new run may not leave beside its own files. Trainer adds to `all_results.json`, so that metrics of an earlier
# run would stay in it, and of a whole model and an adapter only one is the student.
FILES_OF_A_RUN = (
    "*_results.json",
    "predictions_*.csv",
    THRESHOLDS_FILE,
    "identity_bias.*",
    "*.safetensors",
    "*.safetensors.index.json",
    ADAPTER_FILE,
)
# Folders in it with what is made of its student, where the app and other programs look.
MERGED_FOLDER, EXPORT_FOLDER = "merged", "export"
# Settings that change where a run is and what it shows, keeps or logs, and not what it makes.
WITHOUT_EFFECT = (
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "debug",
    "disable_tqdm",
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_first_step",
    "logging_nan_inf_filter",
    "logging_steps",
    "logging_strategy",
    "merge_adapter",
    "num_workers",
    "output_dir",
    "overwrite_cache",
    "overwrite_output_dir",
    "overwrite_teacher",
    "preprocessing_num_workers",
    "project",
    "push_to_hub",
    "report_to",
    "run_name",
    "save_total_limit",
    "skip_memory_metrics",
    "teacher_cache_dir",
)


class FolderInUseError(UserError):
    """Another run is going on in the output folder."""


@contextmanager
def claimed(training_args: TrainingArguments) -> Iterator[None]:
    """Keeps other runs out of the output folder until the block ends. The main process of a run does so for all.

    If the block ends with an error and all that it has left is the record of a run, the folder is again as it was.

    Raises:
        FolderInUseError: another run is going on in the folder.
    """
    folder = Path(training_args.output_dir)
    with ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(claimed_folder(folder))
            stack.enter_context(_without_bare_record(folder))

        on_main_process(claim)
        yield


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes that claim the folder out of it until the block ends.

    Raises:
        FolderInUseError: another one works in it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK_FILE, blocking=False))
        except Timeout:
            raise FolderInUseError(
                f"Another run is going on in --output_dir {folder}. Wait for its end, or choose another --output_dir."
            ) from None
        yield


@contextmanager
def _without_bare_record(folder: Path) -> Iterator[None]:
    """Removes the record of an unfinished run if it is all that the block has left in the folder, after an error."""
    before = set(folder.iterdir())
    try:
        yield
    except BaseException:
        if set(folder.iterdir()) - before == {folder / UNFINISHED_RECORD_FILE}:
            (folder / UNFINISHED_RECORD_FILE).unlink()
        raise


def check_output_dir(output_dir: str | Path, must_hold_run: bool = False) -> None:
    """Raises a `UserError` if the folder has content that no run of ours has put there, or no run where it must."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file. Choose a folder.")
    is_ours = any((folder / name).is_file() for name in (RECORD_FILE, UNFINISHED_RECORD_FILE))
    if folder.is_dir() and any(path.suffix != ".lock" for path in folder.iterdir()) and not is_ours:
        raise UserError(
            f"--output_dir {folder} is not empty and not a run of this project (it has no {RECORD_FILE}). Nothing in "
            "it was touched: choose another folder, or empty this one."
        )
    check_writable("output_dir", folder)
    if must_hold_run and RunRecord.read(folder) is None:
        raise UserError(
            f"--output_dir {folder} holds no student to evaluate. Name the folder of a run, or add --do_train."
        )


def earlier_records(
    output_dir: str | Path, record: RunRecord, overwrite: bool = False
) -> tuple[RunRecord | None, RunRecord | None]:
    """Returns the records of the finished and of the unfinished run in the folder, `None` where there is none.

    Args:
        record: of a run that is to begin.
        overwrite: whether it may replace runs with other settings or data, which are then left out.

    Raises:
        UserError: one of them has other settings or data than the record.
    """
    finished = RunRecord.read(output_dir)
    unfinished = RunRecord.read(output_dir, UNFINISHED_RECORD_FILE)
    records = []
    for earlier in (finished, unfinished):
        changed = {} if earlier is None else record.differences(earlier, WITHOUT_EFFECT)
        if changed and not overwrite:
            raise UserError(
                f"--output_dir {output_dir} holds a run with other {' and '.join(changed)}, which this run would "
                f"replace. It differs in the {_listed(changed)}. Choose another --output_dir, or remove that folder. "
                "run_distillation.py and run_lora.py replace the run with --overwrite_output_dir."
            )
        records.append(None if changed else earlier)
    return tuple(records)


def checkpoint_to_resume(output_dir: str | Path, record: RunRecord, overwrite: bool = False) -> str | None:
    """Returns the newest checkpoint that an interrupted run of the same request can continue from, `None` if there is
    none. A checkpoint without the mark of `CheckpointMarker` is skipped."""
    _, unfinished = earlier_records(output_dir, record, overwrite)
    if unfinished is None or unfinished.built_from != record.built_from:
        return None
    for checkpoint in sorted(_checkpoints(output_dir), key=_step, reverse=True):
        if (checkpoint / COMPLETE_MARK).is_file():
            logger.info(f"An interrupted run is continued from {checkpoint}.")
            return str(checkpoint)
        logger.warning(f"{checkpoint} is skipped: it is half-written, or --save_only_model left the optimizer out.")
    return None


def check_named_checkpoint(checkpoint: str | Path, record: RunRecord, num_steps: int) -> None:
    """Checks the checkpoint that `--resume_from_checkpoint` names: what comes of it is recorded as this run's.

    Args:
        record: of the run that is to continue from it.
        num_steps: of that run, from its beginning.

    Raises:
        UserError: the folder around it holds a run with other settings or data, or no unfinished run, and no step is
            left to take.
    """
    given, folder = f"--resume_from_checkpoint {checkpoint}", Path(checkpoint).resolve().parent
    unfinished = RunRecord.read(folder, UNFINISHED_RECORD_FILE)
    earlier = unfinished or RunRecord.read(folder)
    if earlier is not None and (changed := record.differences(earlier, WITHOUT_EFFECT)):
        raise UserError(
            f"{given} is of a run with other {' and '.join(changed)}, but its weights would be recorded as those of "
            f"this run. It differs in the {_listed(changed)}. Leave --resume_from_checkpoint out, or repeat the "
            "arguments of that run."
        )
    step = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME))).global_step
    if unfinished is None and step >= num_steps:  # an unfinished run may lack its results alone
        raise UserError(
            f"{given} was written after step {step}, and this run ends after step {num_steps}, so there is nothing "
            "left to train. Name an earlier checkpoint, or leave --resume_from_checkpoint out."
        )


def _listed(changed: Mapping[str, Sequence[str]]) -> str:
    """Returns what `RunRecord.differences` has found, for an error."""
    return "; ".join(f"{part}: {', '.join(names)}" for part, names in changed.items())


class CheckpointMarker(TrainerCallback):
    """Marks a checkpoint as complete once every process has written its part of it.

    With `save_only_model` no checkpoint is: from weights alone, the learning rate would start again.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
            make_readable(checkpoint)
            if not args.save_only_model:
                (checkpoint / COMPLETE_MARK).touch()


def open_run_folder(output_dir: str | Path, record: RunRecord, keep_checkpoints: bool) -> None:
    """Writes the record of a run that begins. Removes checkpoints of another run and what a killed one half wrote."""
    if not keep_checkpoints:
        for checkpoint in remove_checkpoints(output_dir):
            logger.info(f"{checkpoint} is of an earlier run and removed.")
    remove_half_written(output_dir)
    record.write(output_dir, UNFINISHED_RECORD_FILE)


def remove_checkpoints(output_dir: str | Path) -> list[Path]:
    """Removes the checkpoints in the folder of a run, and returns which."""
    checkpoints = _checkpoints(output_dir)
    for checkpoint in checkpoints:
        (checkpoint / COMPLETE_MARK).unlink(missing_ok=True)  # first, or half of it could be taken for the whole
        shutil.rmtree(checkpoint)
    return checkpoints


@contextmanager
def closing_run_folder(output_dir: str | Path, state: PartialState) -> Iterator[str]:
    """Gives a new folder to write the results of a run to; its files move to `output_dir` when the block ends.

    Then the record of the unfinished run is removed, results of an earlier run that this run did not replace, and what
    was made of the student of that run.
    """
    output_dir = Path(output_dir)
    with replacing(output_dir, state) as unfinished:
        yield unfinished
        if state.is_main_process:
            for file in (path for pattern in FILES_OF_A_RUN for path in output_dir.glob(pattern)):
                if not Path(unfinished, file.name).exists():  # the others are replaced in one step
                    file.unlink()
            for name in (MERGED_FOLDER, EXPORT_FOLDER):
                if (output_dir / name / CONFIG_NAME).is_file():
                    shutil.rmtree(output_dir / name)
    if state.is_main_process:
        (output_dir / UNFINISHED_RECORD_FILE).unlink()


def _checkpoints(output_dir: str | Path) -> list[Path]:
    return [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[-1])
