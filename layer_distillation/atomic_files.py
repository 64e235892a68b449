"""Files and folders that appear whole or not at all, whatever interrupts the process that writes them."""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from filelock import FileLock, Timeout

from layer_distillation.errors import UserError
from layer_distillation.processes import on_main_process

logger = logging.getLogger(__name__)

# Folder of files that are not in their places yet.
HALF_WRITTEN = ".unfinished-files-"
# In the output folder of a run or an export, which holds it while it goes on.
LOCK_FILE = ".run.lock"


def check_writable(argument: str, folder: str | Path) -> None:
    """Raises a `UserError` if the folder that an argument names, or the one it would be created in, is read-only."""
    existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise UserError(f"--{argument} {folder} is to be written to, but {existing} is read-only. Choose another.")


def write_json(file: Path, content: dict) -> None:
    """Replaces an older file in one step, so that a crash leaves either the old or the new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half_written = file.with_name(f".{file.name}.{uuid.uuid4().hex}")  # two runs may write the same teacher's
    try:
        half_written.write_text(to_json(content) + "\n")
        half_written.replace(file)
    finally:
        half_written.unlink(missing_ok=True)


def to_json(record: dict) -> str:
    return json.dumps(record, indent=2, default=str)  # arguments may be of any type


def make_readable(folder: Path) -> None:
    """Gives the files below a folder the permissions of new files. safetensors writes files for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


@contextmanager
def locked(file: Path, blocking: bool = True) -> Iterator[None]:
    """Holds a lock on a file until the block ends, or this process does, however it ends. The empty file stays.

    Were it removed, a process that waits for the old file and one that makes a new file could both hold a lock, for
    example on NFS, which does not tell the first that its file is gone.

    Raises:
        Timeout: another process holds it, and `blocking` is off.
        OSError: the file cannot be created.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file, blocking=blocking):
        yield


def move_files(source: Path, target: Path, last: str | None = None) -> None:
    """Moves all files below a folder to their places below another, where they replace others.

    Args:
        last: name of the file that is moved after the others, because it vouches for them.
    """
    files = [file for file in source.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.name == last):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)


@contextmanager
def replacing(folder: str | Path, state: PartialState) -> Iterator[str]:
    """Gives a new folder to write to; its files move to `folder` when the block ends without an error.

    A full disk or a crash while files are written leaves `folder` as it was. All processes enter the block; the main
    process creates the new folder and moves the files.
    """
    folder = Path(folder)

    def create() -> Path:
        unfinished = folder / f"{HALF_WRITTEN}{uuid.uuid4().hex}"  # two runs may make the same teacher at once
        unfinished.mkdir(parents=True)
        return unfinished

    def finish() -> None:
        make_readable(unfinished)
        move_files(unfinished, folder)

    unfinished = on_main_process(create)
    try:
        yield str(unfinished)
        state.wait_for_everyone()
        on_main_process(finish)
    finally:
        if state.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)


def remove_half_written(folder: str | Path) -> None:
    """Removes what a killed process has left of `replacing`, from a folder that no other process writes to."""
    for half_written in Path(folder).glob(f"{HALF_WRITTEN}*"):
        shutil.rmtree(half_written)


@contextmanager
def appearing_when_finished(folder: Path) -> Iterator[Path]:
    """Gives a folder to write to, which gets its name when the block ends without an error.

    Raises:
        UserError: the folder cannot be created.
    """
    unfinished = folder.parent / f".unfinished-{uuid.uuid4().hex}"
    lock = FileLock(f"{unfinished}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        lock.acquire()
        unfinished.mkdir()
    except OSError as error:
        raise cannot_keep_outputs(folder.parent, error) from error
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


def cannot_keep_outputs(cache_dir: Path, error: OSError) -> UserError:
    """Returns the error of a folder of teacher outputs that cannot be written to."""
    return UserError(
        f"Teacher outputs cannot be kept in {cache_dir}: {error}. Choose another folder (--teacher_cache_dir)."
    )


def _remove_abandoned(cache_dir: Path) -> None:
    """Removes what killed processes left, which may be large. The lock of a process ends with it."""
    for file in cache_dir.glob(".unfinished-*.lock"):
        try:
            with FileLock(file, blocking=False):
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink(missing_ok=True)
        except Timeout:
            logger.debug(f"{file} belongs to a build that is under way.")
