"""What other work on the processor costs a training, in this build and in an earlier one.

    git worktree add ../earlier 4566f60
    python -m benchmarks.busy_machine --earlier ../earlier --teacher_name_or_path TEACHER

The teacher is fine-tuned already (a folder). Each build decides about its threads by itself. Their trainings go on in
turns of a few steps, alone and beside four processes that compute without a break; the training that is not measured
is stopped. A turn leaves out its first step. The order of the turns is reversed in every round. Writes
`docs/results/busy_machine.csv` and `busy_machine.md`.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.earlier_build import EARLIER, add_arguments, start
from benchmarks.measuring import median_and_range, ratios_within_rounds
from benchmarks.results import ROOT, write_results
from training.tables import markdown_table

BUSY_PROCESSES = 4
OPTIONS = ("--layer_strategy", "even", "--eval_strategy", "no", "--save_strategy", "no")
A_LINE_A_STEP = ("--max_steps", "100000", "--logging_steps", "1", "--disable_tqdm", "true")


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    write_results("busy_machine", rows, table(rows))


def measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Returns the seconds a step of each build in each round, alone and beside busy processes."""
    builds = {"this build": ROOT, EARLIER: args.earlier}
    turns = [(name, is_busy) for is_busy in (False, True) for name in builds]
    rows = []
    with ExitStack() as stack:
        trainings = {name: stack.enter_context(training(build, args, folder / name)) for name, build in builds.items()}
        for index in range(args.rounds):
            row = {}
            for name, is_busy in turns if index % 2 else reversed(turns):
                with busy_processes(BUSY_PROCESSES if is_busy else 0):
                    row[f"{name}, {'busy' if is_busy else 'alone'}"] = trainings[name].seconds_a_step(args.steps)
            rows.append({"round": index + 1} | {key: round(row[key], 4) for key in sorted(row)})
            print(rows[-1], flush=True)
    return rows


class Training:
    """A training that runs only while it is measured.

    Args:
        process: that writes a line a step.
    """

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.wait_for_step()
        self.process.send_signal(signal.SIGSTOP)

    def wait_for_step(self) -> float:
        """Waits for the end of a step and returns the time."""
        for line in self.process.stdout:
            if "'loss':" in line:
                return time.perf_counter()
        raise RuntimeError(f"The training has ended: {self.process.args}")

    def seconds_a_step(self, steps: int) -> float:
        """Goes on with the training for some steps."""
        self.process.send_signal(signal.SIGCONT)
        started = self.wait_for_step()
        for _ in range(steps):
            ended = self.wait_for_step()
        self.process.send_signal(signal.SIGSTOP)
        return (ended - started) / steps


@contextmanager
def training(build: Path, args: argparse.Namespace, folder: Path, *more_options: str) -> Iterator[Training]:
    """Starts a training of a build, and ends it.

    Args:
        build, args: as for `start`.
        folder: of its output.
        more_options: words of the command line.
    """
    options = (f"--output_dir={folder}", *OPTIONS, *A_LINE_A_STEP, *more_options)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = start(build, "run_distillation.py", args, *options, **streams)
    try:
        yield Training(process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Starts processes that compute without a break, and ends them."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def table(rows: Sequence[dict]) -> str:
    lines = []
    earlier = [row[f"{EARLIER}, alone"] for row in rows]
    for name in ("this build", EARLIER):
        alone, busy = ([row[f"{name}, {what}"] for row in rows] for what in ("alone", "busy"))
        lines.append(
            {
                "Build": name,
                "Alone (s a step)": median_and_range(alone),
                "Beside four busy processes (s a step)": median_and_range(busy),
                "Busy / alone": ratios_within_rounds(busy, alone),
                f"Alone, times as fast as {EARLIER}": ratios_within_rounds(earlier, alone),
            }
        )
    return f"Medians of {len(rows)} rounds [smallest - largest].\n\n{markdown_table(lines)}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=20, help="of a turn (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
