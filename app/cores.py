"""The cores that this process may use, and how the threads of models share them."""

import os
import sys
from pathlib import Path

CORES_BY_TIME = Path("/sys/fs/cgroup/cpu.max")
# Models need the interpreter's lock for moments only. By default Python lets a thread wait 5 ms for it while another
# thread is busy, three times as long as a text takes.
LOCK_SECONDS = 5e-5


def available_cores() -> int:
    """Returns the number of cores that this process may use; containers often limit it, by number or by time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        microseconds, period = map(int, CORES_BY_TIME.read_text().split())
    except (OSError, ValueError):  # another system, or "max"
        return cores
    return min(cores, max(1, round(microseconds / period)))


def share_cores() -> None:
    """Prepares this process for one thread of models on each core; called before the first text."""
    # The tokenizers run on these threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.setswitchinterval(LOCK_SECONDS)
