"""The output folder of a run: refuse strangers' folders, tell finished runs from interrupted ones, keep the record.

`distillation.json` is the record of a finished run, with its results. A run that is not finished has a record of its
own beside it, so that what an earlier run has left stays as it is until the new one ends. A folder without either,
unless empty, is not ours and left alone.
"""

import json
import logging
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

RECORD_FILE = "distillation.json"
UNFINISHED_RECORD_FILE = "distillation.unfinished.json"
COMPLETE_MARK = "complete"
# Folder of files that are not in their places yet.
HALF_WRITTEN = ".unfinished-files-"
# Trainer adds to `all_results.json`, so that metrics of an earlier run would stay in it.
RESULT_FILES = ("*_results.json", "predictions_*.csv")
LIBRARIES = (
    *("torch", "transformers", "datasets", "evaluate", "peft", "accelerate", "scikit-learn", "deepspeed"),
    *("onnx", "onnxruntime"),
)


def check_output_dir(output_dir: str | Path, must_hold_run: bool = False) -> None:
    """Raises a `ValueError` if the folder has content that no run of ours has put there, or no run where it must."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file. Choose a folder.")
    is_ours = any((folder / name).is_file() for name in (RECORD_FILE, UNFINISHED_RECORD_FILE))
    if folder.is_dir() and any(folder.iterdir()) and not is_ours:
        raise ValueError(
            f"--output_dir {folder} is not empty and not a run of this project (it has no {RECORD_FILE}). Nothing in "
            "it was touched: choose another folder, or empty this one."
        )
    check_writable("output_dir", folder)
    if must_hold_run and read_record(folder) is None:
        raise ValueError(
            f"--output_dir {folder} holds no student to evaluate. Name the folder of a run, or add --do_train."
        )


def check_writable(argument: str, folder: str | Path) -> None:
    """Raises a `ValueError` if the folder that an argument names, or the one it would be created in, is read-only."""
    existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"--{argument} {folder} is to be written to, but {existing} is read-only. Choose another.")


def read_record(output_dir: str | Path) -> dict | None:
    """The record of the finished run in the folder, `None` if there is none."""
    return _read(Path(output_dir) / RECORD_FILE)


def write_record(output_dir: str | Path, record: dict) -> None:
    """Writes the record of a finished run."""
    write_json(Path(output_dir) / RECORD_FILE, record)


def _read(file: Path) -> dict | None:
    return json.loads(file.read_text()) if file.is_file() else None


def write_json(file: Path, content: dict) -> None:
    """Replaces an older file in one step, so that a crash leaves either the old or the new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half_written = file.with_name(f".{file.name}")
    half_written.write_text(_to_json(content) + "\n")
    half_written.replace(file)


def _to_json(record: dict) -> str:
    return json.dumps(record, indent=2, default=str)  # arguments may be of any type


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the results depend on."""
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except ModuleNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def earlier_records(output_dir: str | Path, record: dict) -> tuple[dict | None, dict | None]:
    """The records of the finished and of the unfinished run in the folder, `None` where there is none.

    Raises:
        ValueError: one of them has other settings or data than the given record of a run that is to begin.
    """
    finished, unfinished = read_record(output_dir), _read(Path(output_dir) / UNFINISHED_RECORD_FILE)
    expected = json.loads(_to_json(record))
    for earlier in filter(None, (finished, unfinished)):
        changed = [name for name in ("settings", "data") if earlier[name] != expected[name]]
        if changed:
            raise ValueError(
                f"--output_dir {output_dir} holds a run with other {' and '.join(changed)}, which this one would "
                "replace. Choose another --output_dir, or remove that folder."
            )
    return finished, unfinished


def checkpoint_to_resume(output_dir: str | Path, record: dict) -> str | None:
    """The newest complete checkpoint of an interrupted run with the same settings and data, `None` if there is none.

    A checkpoint without the mark of `CheckpointMarker` is half-written and passed over.
    """
    _, unfinished = earlier_records(output_dir, record)
    if unfinished is None:
        return None
    for checkpoint in sorted(_checkpoints(output_dir), key=_step, reverse=True):
        if (checkpoint / COMPLETE_MARK).is_file():
            logger.info(f"An interrupted run is continued from {checkpoint}.")
            return str(checkpoint)
        logger.warning(f"{checkpoint} is half-written and passed over.")
    return None


class CheckpointMarker(TrainerCallback):
    """Marks a checkpoint as complete once every process has written its part of it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", COMPLETE_MARK).touch()


def open_run_folder(output_dir: str | Path, record: dict, keep_checkpoints: bool) -> None:
    """Writes the record of a run that begins. Checkpoints of another run go, and what a killed one half wrote."""
    if not keep_checkpoints:
        for checkpoint in remove_checkpoints(output_dir):
            logger.info(f"{checkpoint} is of an earlier run and removed.")
    for half_written in Path(output_dir).glob(f"{HALF_WRITTEN}*"):
        shutil.rmtree(half_written)
    write_json(Path(output_dir) / UNFINISHED_RECORD_FILE, record)


def remove_checkpoints(output_dir: str | Path) -> list[Path]:
    """Removes the checkpoints in the folder of a run, and returns which."""
    checkpoints = _checkpoints(output_dir)
    for checkpoint in checkpoints:
        (checkpoint / COMPLETE_MARK).unlink(missing_ok=True)  # first, or half of it could be taken for the whole
        shutil.rmtree(checkpoint)
    return checkpoints


@contextmanager
def closing_run_folder(args: TrainingArguments) -> Iterator[None]:
    """In this block `args.output_dir` is a new folder, whose files replace those of an earlier run when it ends.

    The record of the unfinished run goes then, and with it results of the earlier one that have no successor.
    """
    output_dir = Path(args.output_dir)
    with replacing(output_dir, args.distributed_state) as unfinished:
        args.output_dir = unfinished
        try:
            yield
        finally:
            args.output_dir = str(output_dir)
        if args.process_index == 0:
            for file in (path for pattern in RESULT_FILES for path in output_dir.glob(pattern)):
                file.unlink()
    if args.process_index == 0:
        (output_dir / UNFINISHED_RECORD_FILE).unlink()


@contextmanager
def replacing(folder: str | Path, state: PartialState) -> Iterator[str]:
    """Gives a new folder to write to; its files take their places in `folder` when the block ends without an error.

    A full disk or a crash while they are written so leaves what was in `folder` before as it was. All processes enter
    the block; the main one creates the folder and moves the files.
    """
    # Two runs may make the same teacher at once.
    (name,) = broadcast_object_list([f"{HALF_WRITTEN}{uuid.uuid4().hex}"])
    unfinished = Path(folder) / name
    if state.is_main_process:
        unfinished.mkdir(parents=True)
    state.wait_for_everyone()
    try:
        yield str(unfinished)
        state.wait_for_everyone()
        if state.is_main_process:
            for file in unfinished.iterdir():
                file.replace(Path(folder) / file.name)
    finally:
        if state.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)


def _checkpoints(output_dir: str | Path) -> list[Path]:
    return [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[-1])
