"""Folders for caches, also where HF_HOME is read-only: a mounted share, or a folder of another user."""

import os
import stat
import tempfile
from pathlib import Path

import datasets
from datasets.fingerprint import get_temporary_cache_files_directory


def datasets_cache() -> Path:
    """HF_DATASETS_CACHE, where `load_dataset` keeps data sets."""
    return Path(datasets.config.HF_DATASETS_CACHE).expanduser().absolute()


def is_writable(folder: Path) -> bool:
    """Whether files may be created in the folder, or the folder itself if it does not exist.

    For root, whom the system stops nowhere, a missing write permission of the owner counts as well.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK) and bool(existing.stat().st_mode & stat.S_IWUSR)


def writable_cache(name: str) -> Path:
    """Creates and returns a cache folder of this name.

    The folder is in HF_DATASETS_CACHE; where that is read-only, in the default of HF_DATASETS_CACHE in the user's
    home; where that is read-only too, in a temporary folder of this process.
    """
    home_cache = Path(datasets.config.DEFAULT_HF_CACHE_HOME).expanduser() / "datasets"
    folders = [parent / name for parent in (datasets_cache(), home_cache)]
    folder = next(filter(is_writable, folders), None) or Path(get_temporary_cache_files_directory(), name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lockable_datasets_cache() -> Path:
    """HF_DATASETS_CACHE; where that is read-only, a temporary folder of links to everything in it.

    `load_dataset` creates a lock file in its cache folder even if it only reads.
    """
    cache = datasets_cache()
    if is_writable(cache):
        return cache
    mirror = Path(tempfile.mkdtemp(dir=get_temporary_cache_files_directory()))
    for path in cache.glob("*"):
        (mirror / path.name).symlink_to(path)
    return mirror
