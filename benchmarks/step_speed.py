"""A training step of this build and of an earlier one, in float32 and in bfloat16.

    git worktree add ../earlier 4566f60
    python -m benchmarks.step_speed --earlier ../earlier --teacher_name_or_path TEACHER

The teacher is fine-tuned already (a folder), its outputs are stored. The trainings are those of `run_distillation.py`
on the earlier build's sample data, of which one at a time goes on for some steps. The order of the turns is reversed
in every round. Writes `docs/results/step_speed.csv` and `step_speed.md`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.busy_machine import training
from benchmarks.earlier_build import EARLIER, add_arguments
from benchmarks.measuring import describe_machine, median_and_range, ratios_within_rounds
from benchmarks.results import ROOT, write_results
from layer_distillation.arguments import bf16_in_hardware
from training.tables import markdown_table

THIS = "this build"
PRECISIONS = {"float32": "false", "bfloat16": "true"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=20, help="of a turn (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    write_results("step_speed", rows, f"{describe_machine()}\n\n{table(rows)}")


def measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Returns the milliseconds a step of each precision and build, by round."""
    builds, rows, trainings = {THIS: ROOT, EARLIER: args.earlier}, [], {}
    with ExitStack() as stack:
        for precision in list(PRECISIONS)[: 1 + bf16_in_hardware()]:
            for name, build in builds.items():
                variant, options = (precision, name), ("--bf16", PRECISIONS[precision])
                started = training(build, args, folder / f"{precision}-{name}", *options)
                trainings[variant] = stack.enter_context(started)
        for index in range(args.rounds):
            for variant in trainings if index % 2 else reversed(trainings):
                milliseconds = round(1000 * trainings[variant].seconds_a_step(args.steps), 1)
                rows.append({"round": index + 1, "precision": variant[0], "build": variant[1], "ms": milliseconds})
                print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[dict]) -> str:
    lines = []
    measured = {row["precision"] for row in rows}
    for precision in (name for name in PRECISIONS if name in measured):
        by_build = {
            build: [row["ms"] for row in rows if (row["precision"], row["build"]) == (precision, build)]
            for build in (THIS, EARLIER)
        }
        for build, milliseconds in by_build.items():
            lines.append(
                {
                    "Precision": precision,
                    "Build": build,
                    "Step (ms)": median_and_range(milliseconds, 0),
                    f"Times as fast as {EARLIER}": ratios_within_rounds(by_build[EARLIER], milliseconds),
                }
            )
    return markdown_table(lines)


if __name__ == "__main__":
    main()
