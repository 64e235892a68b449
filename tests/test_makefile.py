"""Tests of what the Makefile removes."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_clean_removes_the_environment_and_caches_and_keeps_outputs(tmp_path):
    made = (".venv", ".pytest_cache", ".ruff_cache", "outputs")
    for name in made:
        (tmp_path / name / "teacher").mkdir(parents=True)
    shutil.copy(MAKEFILE, tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert [name for name in made if (tmp_path / name).exists()] == ["outputs"]
