"""What the threads of PyTorch have to know about the processor before torch is imported.

from training.processor import share_processor

share_processor()    # before the first import of torch
"""

import os

import joblib

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Turns of the busy loop in which a thread of GNU's OpenMP waits before it sleeps. Its default is 300,000, or none if
# the policy is passive. Measured in docs/LOG.md.
SPINS = 2000


def share_processor() -> None:
    """Sets variables of the environment that OpenMP, whose threads PyTorch uses, reads once. Those that are set stay.

    `OMP_WAIT_POLICY` PASSIVE: threads that wait for each other sleep. By default they wait in busy loops, and beside
    other work on the same processors a training step takes ten times as long. `GOMP_SPINCOUNT`: GNU's OpenMP, that of
    PyTorch's builds for Linux, waits in a short loop before, because sleeping at once costs a step a sixth of its time
    where there is no other work. A policy that the user has set decides about both.

    `OMP_NUM_THREADS`: the physical cores. If the affinity of the process or the quota of its container (cgroup) is
    smaller, it counts instead; a quota of 1.5 processors is rounded up, because one thread could not use it up.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    os.environ.setdefault("OMP_NUM_THREADS", str(joblib.cpu_count(only_physical_cores=True)))


def describe_threads() -> str:
    """Returns a line for the log with what OpenMP has read."""
    values = ", ".join(f"{name} {os.environ.get(name, 'not set')}" for name in VARIABLES)
    return f"Threads: {values}; processors that this process may use: {joblib.cpu_count()}."
