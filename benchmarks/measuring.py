"""What a measurement needs: a device that has finished, a process of its own, peak memory, ranges.

synchronize()
started = time.perf_counter()
...
synchronize()
seconds = time.perf_counter() - started
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch


def device() -> torch.device:
    """Returns the accelerator that PyTorch uses, or the processor."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def synchronize() -> None:
    """Waits for the device, so that the clock measures what was computed and not what was queued."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_memory_mb() -> float:
    """Returns the peak memory in MB: allocated on the GPU, or without one resident in this process (Linux only)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    # Not `getrusage`, whose peak a process inherits from the process that started it.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def in_own_process(function: Callable, *args):
    """Returns what the function returns in a fresh process, without memory, kernels or threads of earlier runs."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args).result()


def describe_machine() -> str:
    """Returns PyTorch's version and the name of the GPU, or the number of threads without one."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"PyTorch {torch.__version__}, {where}."


def median_and_range(values: list[float], digits: int = 2) -> str:
    """Returns `median [smallest - largest]`."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f} - {max(values):.{digits}f}]"


def ratios_within_rounds(dividends: list[float], divisors: list[float], digits: int = 2) -> str:
    """Returns `median [smallest - largest]` of the ratios within each round, which a slow round does not change."""
    return median_and_range([a / b for a, b in zip(dividends, divisors, strict=True)], digits)
