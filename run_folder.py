"""The output folder of a run: refuse strangers' folders, tell finished runs from interrupted ones, keep the record.

`distillation.json` is written when a run begins, with the status "running", and again when it ends, with the results.
A folder that has it is a run of ours; any other folder that is not empty is left alone.
"""

import json
import logging
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

RECORD_FILE = "distillation.json"
# Trainer adds to `all_results.json`, so that metrics of an earlier run would stay in it.
RESULT_FILES = ("*_results.json", "predictions_*.csv")
LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "peft", "accelerate", "scikit-learn", "deepspeed")


def check_output_dir(output_dir: str | Path, must_hold_run: bool = False) -> None:
    """Raises a `ValueError` if the folder has content that no run of ours has put there, or no run where it must."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file. Choose a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD_FILE).is_file():
        raise ValueError(
            f"--output_dir {folder} is not empty and not a run of this project (it has no {RECORD_FILE}). Nothing in "
            "it was touched: choose another folder, or empty this one."
        )
    if must_hold_run and not (folder / RECORD_FILE).is_file():
        raise ValueError(
            f"--output_dir {folder} holds no student to evaluate. Name the folder of a run, or add --do_train."
        )


def read_record(output_dir: str | Path) -> dict | None:
    """The record of the run in the folder, `None` if there is none."""
    file = Path(output_dir) / RECORD_FILE
    return json.loads(file.read_text()) if file.is_file() else None


def write_record(output_dir: str | Path, record: dict) -> None:
    """Writes the record, replacing an older one in one step so that a crash leaves either the old or the new."""
    file = Path(output_dir) / RECORD_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".json.unfinished")
    unfinished.write_text(_to_json(record) + "\n")
    unfinished.replace(file)


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


def same_run(output_dir: str | Path, record: dict) -> dict | None:
    """The record of the run in the folder, `None` if there is none.

    Raises:
        ValueError: it is of a run with other settings or data than the given one.
    """
    earlier = read_record(output_dir)
    if earlier is None:
        return None
    changed = [name for name in ("settings", "data") if earlier[name] != json.loads(_to_json(record[name]))]
    if changed:
        raise ValueError(
            f"--output_dir {output_dir} holds a run with other {' and '.join(changed)}, which this one would replace. "
            "Choose another --output_dir, or remove that folder."
        )
    return earlier


def checkpoint_to_resume(output_dir: str | Path, record: dict) -> str | None:
    """The newest complete checkpoint of an interrupted run with the same settings and data, `None` if there is none.

    A checkpoint's last file is the trainer's state: without it the checkpoint is half-written and passed over.
    """
    earlier = same_run(output_dir, record)
    if earlier is None or earlier["status"] != "running":
        return None
    for checkpoint in sorted(_checkpoints(output_dir), key=_step, reverse=True):
        try:
            TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        except (OSError, ValueError):
            logger.warning(f"{checkpoint} is half-written and passed over.")
            continue
        logger.info(f"An interrupted run is continued from {checkpoint}.")
        return str(checkpoint)
    return None


def open_run_folder(output_dir: str | Path, record: dict, keep_checkpoints: bool) -> None:
    """Writes the record of a run that begins. Checkpoints and results of another run go: they are not this one's."""
    write_record(output_dir, record)
    if keep_checkpoints:
        return
    for checkpoint in remove_checkpoints(output_dir):
        logger.info(f"{checkpoint} is of an earlier run and removed.")
    for pattern in RESULT_FILES:
        for file in Path(output_dir).glob(pattern):
            file.unlink()


def remove_checkpoints(output_dir: str | Path) -> list[Path]:
    """Removes the checkpoints in the folder of a run, and returns which."""
    checkpoints = _checkpoints(output_dir)
    for checkpoint in checkpoints:
        shutil.rmtree(checkpoint)
    return checkpoints


def _checkpoints(output_dir: str | Path) -> list[Path]:
    return [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[-1])
