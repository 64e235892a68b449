"""The cores that this process may use, and how the threads of models share them."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
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


def core_for_each_thread(num_threads: int) -> Callable[[], None]:
    """Returns a function for each of these threads to call at its start; the thread then stays on a core of its own.

    Linux by itself often runs two models on one core while a thread with a short task is on the other one. Where there
    are not as many threads as cores, as in a container that is limited by time, the threads stay free: all containers
    of a machine would choose the same cores.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    if len(cores) != num_threads:
        return lambda: None
    free = iter(cores)

    def stay() -> None:
        with suppress(OSError):  # some sandboxes refuse it
            os.sched_setaffinity(0, {next(free)})  # 0: the calling thread

    return stay
