"""Tests of `training.processor`: what the commands set before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import pytest

from training.processor import SPINS, VARIABLES, describe_threads, share_processor

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("run_distillation", "run_lora", "run_comparison", "run_export")
# Runs each command until it imports torch, and notes the environment of that moment.
UNTIL_TORCH = """
import json, os, runpy, sys

class Torch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            seen.append({name: os.environ.get(name) for name in given})
            sys.exit()

given, seen = json.loads(sys.argv[1]), []
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.meta_path.insert(0, Torch)
for command in sys.argv[2:]:
    for name, value in given.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    try:
        runpy.run_path(command, run_name="__main__")
    except SystemExit:
        pass
print(json.dumps(seen))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes have no affinity on this system")
@pytest.mark.parametrize(
    ("given", "seen"),
    [
        # Of all processors, the process may use one.
        ((None, None, None), ("1", "PASSIVE", str(SPINS))),
        (("7", None, "20"), ("7", "PASSIVE", "20")),
        (("7", "ACTIVE", None), ("7", "ACTIVE", None)),
        (("7", "PASSIVE", None), ("7", "PASSIVE", None)),
    ],
)
def test_every_command_has_decided_on_its_threads_when_torch_is_imported(given, seen):
    given, seen = (dict(zip(VARIABLES, values, strict=True)) for values in (given, seen))
    scripts = [str(ROOT / f"{command}.py") for command in COMMANDS]
    run = subprocess.run(
        [sys.executable, "-c", UNTIL_TORCH, json.dumps(given), *scripts],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert json.loads(run.stdout) == [seen] * len(COMMANDS)


def test_a_quota_of_the_container_counts(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    # What joblib finds in /sys/fs/cgroup, which a test cannot change.
    monkeypatch.setattr("joblib.externals.loky.backend.context.os.cpu_count", lambda: 64)
    monkeypatch.setattr("joblib.externals.loky.backend.context._cpu_count_affinity", lambda count: count)
    monkeypatch.setattr("joblib.externals.loky.backend.context._cpu_count_cgroup", lambda count: 3)
    share_processor()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_the_log_says_what_was_decided(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    line = describe_threads()
    assert "OMP_NUM_THREADS 5" in line and "OMP_WAIT_POLICY PASSIVE" in line and f" {joblib.cpu_count()}." in line
