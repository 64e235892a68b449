"""Tests of `training.processor`: what the commands set before torch is imported."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import joblib
import pytest
from packaging.version import Version

from training.processor import SCHED_SETATTR, SPINS, TIME_SLICE, VARIABLES, describe_threads, share_processor

ROOT = Path(__file__).resolve().parent.parent
BEFORE = {name: os.environ.get(name) for name in VARIABLES}
# Where Linux tells the quota: the microseconds of processor time that the container may use in each period.
CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"
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


@pytest.fixture
def no_variables(monkeypatch):
    """An environment without the variables, and again as it was after a test that sets them."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that the variable is restored, also one that was not there
        monkeypatch.delenv(name)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has quotas of containers")
def test_a_quota_of_the_container_counts(no_variables, monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("250000 100000\n")  # 2.5 processors

    def in_container(call):
        """The function of a path, for a process whose container has the quota."""
        return lambda path, *args, **kwargs: call(quota if path == CGROUP_QUOTA else path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", in_container(open))
    monkeypatch.setattr("os.path.exists", in_container(os.path.exists))
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    share_processor()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_no_test_of_this_module_leaves_variables_behind():
    assert {name: os.environ.get(name) for name in VARIABLES} == BEFORE


def test_the_log_says_what_was_decided(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    line = describe_threads()
    assert "OMP_NUM_THREADS 5" in line and "OMP_WAIT_POLICY PASSIVE" in line and f" {joblib.cpu_count()}." in line


# Prints the nice value and the time slice of a process that `share_processor` has prepared, and of its child.
SLICES_OF_PROCESS_AND_CHILD = """
import ctypes, os, struct, sys
from training.processor import share_processor

def show():
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(int(sys.argv[1]), 0, attributes, 48, 0) == 0
    _, _, _, nice, _, time_slice, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
    print(nice, time_slice, flush=True)

os.nice(3)
share_processor()
show()
if os.fork() == 0:
    show()
else:
    os.wait()
"""


@pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() not in SCHED_SETATTR
    or Version(platform.release().split("-")[0]) < Version("6.12"),
    reason="processes ask for a time slice from Linux 6.12 on",
)
def test_a_process_has_short_time_slices_and_keeps_its_nice_value():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    sched_getattr = SCHED_SETATTR[platform.machine()] + 1
    run = subprocess.run(
        [sys.executable, "-c", SLICES_OF_PROCESS_AND_CHILD, str(sched_getattr)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.stdout == f"{before + 3} {TIME_SLICE}\n" * 2
