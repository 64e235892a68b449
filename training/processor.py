"""How the threads of PyTorch share the processor, which has to be decided before torch is imported.

from training.processor import share_processor

share_processor()    # before the first import of torch
"""

import ctypes
import os
import platform
import struct

import joblib

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Turns of the busy loop in which a thread of GNU's OpenMP waits before it sleeps. Its default is 300,000, or none if
# the policy is passive. Measured in docs/LOG.md.
SPINS = 5000
# Nanoseconds for which a thread keeps the processor while others want it: the fewest that Linux grants.
TIME_SLICE = 100_000
# The number of the system call `sched_setattr`, which neither Python nor most C libraries have a function for.
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


def share_processor() -> None:
    """Prepares this process for threads that wait for each other many times in a training step.

    Sets variables of the environment that OpenMP, whose threads PyTorch uses, reads once; those that are set stay:

    `OMP_WAIT_POLICY` PASSIVE: threads that wait for each other sleep. By default they wait in busy loops, and beside
    other work on the same processors a training step takes ten times as long. `GOMP_SPINCOUNT`: GNU's OpenMP, that of
    PyTorch's builds for Linux, waits in a short loop before, because sleeping at once costs a step a sixth of its time
    where there is no other work. A policy that the user has set decides about both.

    `OMP_NUM_THREADS`: the physical cores. If the affinity of the process or the quota of its container (cgroup) is
    smaller, it counts instead; a quota of 1.5 processors is rounded up, because one thread could not use it up.

    Then asks for short time slices, see `ask_for_short_time_slices`.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    os.environ.setdefault("OMP_NUM_THREADS", str(joblib.cpu_count(only_physical_cores=True)))
    ask_for_short_time_slices()


def ask_for_short_time_slices() -> None:
    """Asks Linux to give this process, and what it starts, the processor in short time slices.

    Its share of the processor stays as it is. But where one of two threads waits for the processor, so does the other:
    with short slices, which come more often, both wait less (measured in docs/LOG.md). Linux heeds this from 6.12 on;
    before it, on other systems and on other processors nothing changes.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if platform.system() != "Linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)  # stays
    # struct sched_attr, as Linux had it first: its size, policy, flags, nice value, priority, time slice, two
    # numbers of other policies.
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, TIME_SLICE, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # may be refused, which does no harm


def describe_threads() -> str:
    """Returns a line for the log with what OpenMP has read."""
    values = ", ".join(f"{name} {os.environ.get(name, 'not set')}" for name in VARIABLES)
    return f"Threads: {values}; processors that this process may use: {joblib.cpu_count()}."
