"""Data sets of the Hub, with and without a network, also from caches that are read-only."""

import os
import stat
import tempfile
from pathlib import Path

import datasets
from datasets import load_dataset
from datasets.fingerprint import get_temporary_cache_files_directory
from datasets.utils.py_utils import temporary_assignment

from layer_distillation.errors import UserError
from layer_distillation.pretrained import hub_answers
from text_data.splits import RawSplit


def load_hub_data(name: str, config_name: str | None) -> tuple[str, dict[str, RawSplit]]:
    source = f"{name} {config_name}" if config_name else name
    # Without a network `load_dataset` retries for half a minute (80 s if packets are dropped) before it looks into
    # its cache. One request tells; the cache it then goes to at once. A read-only cache takes no downloads either way.
    local = Path(name).is_dir()
    online = not local and _is_writable(_datasets_cache()) and hub_answers()
    with temporary_assignment(datasets.config, "HF_HUB_OFFLINE", not online):
        try:
            splits = load_dataset(name, config_name, cache_dir=str(_lockable_datasets_cache()))
        except (OSError, ValueError) as error:
            if local or online:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
                raise UserError(
                    f"The data set {source} cannot be loaded: {reason}. Check dataset_name and dataset_config_name, "
                    "and for a private data set log in with `hf auth login`."
                ) from error
            arguments = ", ".join(repr(argument) for argument in (name, config_name) if argument)
            raise UserError(
                f"The data set {source} must be in the cache or within reach, but it is not in {_datasets_cache()} "
                f"and {datasets.config.HF_ENDPOINT} cannot be used from here (no answer, HF_HUB_OFFLINE set, or a "
                "read-only cache). On a connected machine run "
                f'`python -c "from datasets import load_dataset; load_dataset({arguments})"` and copy its HF_HOME '
                "(~/.cache/huggingface) to this one, or use local files: train_file, validation_file, test_file."
            ) from error
    return source, {split: RawSplit(data, f"split {split!r} of {source}") for split, data in splits.items()}


def _datasets_cache() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE).expanduser().absolute()


def _is_writable(folder: Path) -> bool:
    """Whether files may be created in a folder, or the folder itself. Root heeds a missing write permission too."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK) and bool(existing.stat().st_mode & stat.S_IWUSR)


def writable_cache_dir() -> Path:
    """HF_DATASETS_CACHE; where that is read-only, its default in the user's home; else a folder for this process."""
    home_cache = Path(datasets.config.DEFAULT_HF_CACHE_HOME).expanduser() / "datasets"
    for folder in (_datasets_cache(), home_cache):
        if _is_writable(folder):
            return folder
    return Path(get_temporary_cache_files_directory())


def _lockable_datasets_cache() -> Path:
    """HF_DATASETS_CACHE; where that is read-only, a folder of links to what it holds.

    `load_dataset` creates a lock file in its cache folder even if it only reads from it.
    """
    cache = _datasets_cache()
    if _is_writable(cache):
        return cache
    mirror = Path(tempfile.mkdtemp(dir=get_temporary_cache_files_directory()))
    for path in cache.glob("*"):
        (mirror / path.name).symlink_to(path)
    return mirror
