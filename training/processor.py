"""What the threads of PyTorch have to know about the processor before torch is imported.

from training.processor import share_processor

share_processor()    # before the first import of torch
"""

import os

import joblib


def share_processor() -> None:
    """Sets variables of the environment that OpenMP, whose threads PyTorch uses, reads once. Those that are set stay.

    `OMP_WAIT_POLICY` PASSIVE: threads that wait for each other sleep. By default they wait in busy loops, and beside
    other work on the same processors a training step takes ten times as long.

    `OMP_NUM_THREADS`: the physical cores. If the affinity of the process or the quota of its container (cgroup) is
    smaller, it counts instead; a quota of 1.5 processors is rounded up, because one thread could not use it up.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(joblib.cpu_count(only_physical_cores=True)))


def describe_threads() -> str:
    """Returns a line for the log with what OpenMP has read."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    values = ", ".join(f"{name} {os.environ.get(name, 'not set')}" for name in names)
    return f"Threads: {values}; processors that this process may use: {joblib.cpu_count()}."
