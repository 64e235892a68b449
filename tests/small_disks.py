"""Disks of a given size, that tests fill or make read-only."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mounts a disk on an empty folder; skips the test where that is not allowed."""
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"]
    mount = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"only root may mount a disk of a given size: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def fill(disk: Path, megabytes_left: float) -> None:
    """Leaves so much of the disk free."""
    (disk / "filler").unlink(missing_ok=True)
    size = int(shutil.disk_usage(disk).free - megabytes_left * 1_000_000)
    (disk / "filler").write_bytes(b"0" * size)


def empty(disk: Path) -> None:
    """Undoes `fill`."""
    (disk / "filler").unlink()
