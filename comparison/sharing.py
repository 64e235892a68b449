"""Several processes share a grid: what they tell each other through files in its output folder.

    with share_grid(OUTPUT_DIR) as share:
        with share.one_at_a_time("prepares the teacher"):
            ...                                # the first process makes it, the others find it
        with workers(2, script, words, share):    # this process and another one of the same command
            ...

The processes may start at any time and on any machine that sees the folder. A cell is claimed by the lock of its own
folder (`training.output_folder.claimed`), so a process that is killed loses its claim.
"""

import json
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import Timeout

from comparison.arguments import Cell
from layer_distillation.atomic_files import locked

logger = logging.getLogger(__name__)

# Variable by which a worker knows which failures are earlier than the command that has started it.
EARLIER_FAILURES = "LAYER_DISTILLATION_EARLIER_FAILURES"


class Share:
    """A process's view of the grid that it shares.

    Args:
        folder: the output folder of the grid.
        stack: ends with the process's part in the grid.

    Attributes:
        earlier_failures: names of the files about cells that failed before this start, with their times; these cells
            are tried again.
    """

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder = folder
        self._stack = stack
        self._waits = False
        if EARLIER_FAILURES in os.environ:
            self.earlier_failures = json.loads(os.environ[EARLIER_FAILURES])
        else:
            self.earlier_failures = {file.name: file.stat().st_mtime_ns for file in folder.glob("failures/*")}

    @contextmanager
    def one_at_a_time(self, work: str) -> Iterator[None]:
        """Keeps other processes of the grid out of such a block.

        Args:
            work: for the log of those that wait, a verb with its object.
        """
        file = self.folder / ".turns.lock"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(file, blocking=False))
            except Timeout:
                logger.info(f"Another process {work}; this one waits.")
                stack.enter_context(locked(file))
            yield

    def waits_for_the_end(self) -> bool:
        """Returns whether this is the process that waits for the last cell and writes the report.

        It is the first that asks, until it ends.
        """
        if not self._waits:
            with suppress(Timeout):
                self._stack.enter_context(locked(self.folder / ".end.lock", blocking=False))
                self._waits = True
        return self._waits

    # ---- failures ----

    def note_failure(self, cell: Cell, reason: str | None) -> None:
        """Tells the other processes why a cell failed, or with `None` that it is finished."""
        file = self._failure_file(cell)
        if reason is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(reason)

    def failure_of(self, cell: Cell) -> str | None:
        """Returns why a cell failed since the command was started, `None` if it did not."""
        file = self._failure_file(cell)
        try:
            is_earlier = self.earlier_failures.get(file.name) == file.stat().st_mtime_ns
            return None if is_earlier else file.read_text()
        except FileNotFoundError:
            return None

    def _failure_file(self, cell: Cell) -> Path:
        return self.folder / "failures" / f"{cell.name}.txt"


@contextmanager
def share_grid(folder: Path) -> Iterator[Share]:
    """Gives this process's view of the grid in a folder, which is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield Share(folder, stack)


# ---- Workers ----


class Workers:
    """Processes of the same command that this process has started."""

    def __init__(self):
        self._working: dict[Path, subprocess.Popen] = {}  # by the files that they write to

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with open(log, "w") as stream:
            self._working[log] = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)

    def are_working(self) -> bool:
        """Returns whether any has not ended; the log says which ended early."""
        for log, process in list(self._working.items()):
            if process.poll() is not None:
                del self._working[log]
                if process.returncode:
                    logger.error(
                        f"A worker ended {_how(process.returncode)} and leaves its cell unfinished: another process "
                        f"takes the cell, or the next start does. The worker's last words are in {log}."
                    )
        return bool(self._working)

    def wait(self) -> None:
        """Waits until all have ended."""
        while self.are_working():
            next(iter(self._working.values())).wait()

    def terminate(self) -> None:
        for process in self._working.values():
            process.terminate()
        for process in self._working.values():
            process.wait()
        self._working.clear()


def _how(returncode: int) -> str:
    """Returns how a process ended, by its exit code as `subprocess` has it."""
    return f"by {signal.Signals(-returncode).name}" if returncode < 0 else f"with exit code {returncode}"


@contextmanager
def workers(number: int, script: str | Path, words: Sequence[str], share: Share) -> Iterator[Workers]:
    """Starts further processes of the same command, which share the processors or the GPUs with this one.

    Each writes to a file of its own in the grid's folder, which is named after machine and process, as commands on
    several machines may start workers. In the block, this process uses its share of the threads. The end of the block
    waits for the processes; an error in it ends them.

    Args:
        number: of processes, with this one; below 2, none is started.
        script: path of the command.
        words: of its command line.
    """
    started, threads = Workers(), torch.get_num_threads()
    logs = f"{share.folder}/worker-{platform.node()}-{os.getpid()}"
    shared = {EARLIER_FAILURES: json.dumps(share.earlier_failures)}
    try:
        for index in range(1, number):
            command = [sys.executable, str(script), *words, "--num_workers", "1"]
            environment = os.environ | worker_environment(index, number) | shared
            started.start(command, environment, Path(f"{logs}-{index + 1}.log"))
        torch.set_num_threads(share_of_threads(number))
        yield started
        started.wait()
    except BaseException:
        started.terminate()
        raise
    finally:
        torch.set_num_threads(threads)


def worker_environment(index: int, number: int) -> dict[str, str]:
    """Returns the variables by which a worker gets its share: some threads, and a GPU of its own if there is one.

    Args:
        index: of the worker; 0 is the process that starts the others, which uses the first GPU.
        number: of workers.
    """
    environment = {"OMP_NUM_THREADS": str(share_of_threads(number)), "TQDM_DISABLE": "1"}
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        devices = visible.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
    return environment


def share_of_threads(number: int) -> int:
    """Returns how many threads each of some workers gets."""
    return max(1, torch.get_num_threads() // max(1, number))
