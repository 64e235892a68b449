"""A grid of eight runs: cells side by side in this build, one after another in an earlier one.

    git worktree add ../earlier 4566f60
    python -m benchmarks.grid --earlier ../earlier --teacher_name_or_path TEACHER

Four strategies and two seeds, two epochs each, from the start of `run_comparison.py` to its report. The teacher is
fine-tuned already (a folder); its outputs are stored by each grid. The builds take turns, the earlier one first in
every other round. Writes `docs/results/grid_speed.csv` and `grid_speed.md`.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from subprocess import DEVNULL

from benchmarks.earlier_build import EARLIER, add_arguments, start
from benchmarks.measuring import median_and_range, ratios_within_rounds
from benchmarks.results import ROOT, write_results
from training.tables import markdown_table

GRID = ("--strategies", "top", "bottom", "odd", "even", "--methods", "distill", "--seeds", "0", "1")
RECIPE = ("--num_train_epochs", "2", "--eval_strategy", "no", "--save_strategy", "no")
THIS, WORKERS = "this build", ("--num_workers", "2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    rows = []
    for index in range(args.rounds):
        names = (EARLIER, THIS) if index % 2 == 0 else (THIS, EARLIER)
        rows.append({"round": index + 1} | {name: round(seconds_of_grid(name, args), 1) for name in names})
        print(rows[-1], flush=True)
    write_results("grid_speed", rows, table(rows))


def seconds_of_grid(name: str, args: argparse.Namespace) -> float:
    """Runs the grid of a build in an empty folder."""
    build, workers = (ROOT, WORKERS) if name == THIS else (args.earlier, ())
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        options = (*GRID, *RECIPE, *workers, "--output_dir", folder, "--teacher_cache_dir", f"{folder}/outputs")
        process = start(build, "run_comparison.py", args, *options, stdout=DEVNULL, stderr=DEVNULL)
        if process.wait() != 0:
            raise RuntimeError(f"The grid has failed: {process.args}")
        return time.perf_counter() - started


def table(rows: Sequence[dict]) -> str:
    seconds = {name: [row[name] for row in rows] for name in (THIS, EARLIER)}
    lines = [
        {
            "Build": name,
            "Seconds": median_and_range(of_build),
            f"Times as fast as {EARLIER}": ratios_within_rounds(seconds[EARLIER], of_build),
        }
        for name, of_build in seconds.items()
    ]
    return f"Medians of {len(rows)} rounds [smallest - largest].\n\n{markdown_table(lines)}"


if __name__ == "__main__":
    main()
