"""How the cost of distillation grows with the data: the teacher cache and one epoch, for three sizes of SST-2.

    python -m benchmarks.scaling                                      # 5,000, 20,000 and 67,349 sentences

Each size runs in a process of its own, which builds the cache and then trains for one epoch from it, as
`run_distillation.py` does. The teacher is the encoder with an untrained head: its weights do not matter for the time.
The sentences are the first ones of the training split, which is in no particular order. Memory grows slowly with the
steps, so it is compared after the same number of steps, those of the smallest size. Writes
`docs/results/NAME.csv` and `NAME.md`.
"""

import argparse
import math
import tempfile
import time

from transformers import TrainerCallback, set_seed

from benchmarks.measuring import describe_machine, in_own_process, peak_memory_mb, synchronize
from benchmarks.results import write_results
from benchmarks.training_setup import (
    PRECISIONS,
    CountingCollator,
    Setup,
    our_trainer,
    prepare_data,
    student_of,
    with_stored_outputs,
)
from layer_distillation.arguments import bf16_in_hardware
from layer_distillation.pretrained import PACKAGED_TEACHER
from text_data.arguments import DataArguments
from training.tables import markdown_table


def main():
    args = parse_arguments()
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            data_args = DataArguments(task_name="sst2", max_train_samples=size)
            setup = prepare_data(data_args, PACKAGED_TEACHER, folder, fine_tuned=False)
            rows.append(in_own_process(run, setup, bf16_in_hardware(), min(args.sizes)))
            print(rows[-1], flush=True)
    write_results(args.name, rows, f"{describe_machine()}\n\n{scaling_table(rows)}")


class MemoryAtStep(TrainerCallback):
    """Notes the peak memory after a number of steps, in `peak_mb`."""

    def __init__(self, step: int):
        self.step, self.peak_mb = step, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.peak_mb = peak_memory_mb()


def run(setup: Setup, bf16: bool, smallest: int) -> dict:
    """Builds the cache and trains for one epoch; `smallest` is the smallest number of examples of all runs.

    Returns:
        A row of the results.
    """
    set_seed(0)
    teacher = setup.load_teacher()
    student = student_of(teacher)
    started = time.perf_counter()
    train_dataset = with_stored_outputs(setup, teacher, setup.folder / "cache", bf16)
    built = time.perf_counter()
    del teacher
    collator = CountingCollator(setup.collator)
    settings = {"bf16": bf16, "num_train_epochs": 1}
    trainer = our_trainer(setup, student, train_dataset, settings, data_collator=collator)
    memory = MemoryAtStep(math.ceil(smallest / trainer.args.train_batch_size))
    trainer.add_callback(memory)
    trainer.train()
    synchronize()
    trained = time.perf_counter()
    return {
        "examples": len(train_dataset),
        "precision": PRECISIONS[bf16],
        "cache_seconds": round(built - started, 2),
        "epoch_seconds": round(trained - built, 2),
        "tokens_an_example": round(collator.real_tokens / len(train_dataset), 2),
        "padding_share": round(collator.padding_share, 4),
        "step": memory.step,
        "peak_mb_at_step": round(memory.peak_mb, 1),
        "peak_mb": round(peak_memory_mb(), 1),
    }


def scaling_table(rows: list[dict]) -> str:
    """Returns the table: milliseconds an example and peak memory, each also as a multiple of the first row's."""

    def cost(row: dict, *keys: str) -> str:
        value, first = (1000 * sum(r[key] for key in keys) / r["examples"] for r in (row, rows[0]))
        return f"{value:.2f} (x {value / first:.3f})"

    return markdown_table(
        [
            {
                "Examples": f"{row['examples']:,}",
                "Precision": row["precision"],
                "Cache (ms an example)": cost(row, "cache_seconds"),
                "Epoch (ms an example)": cost(row, "epoch_seconds"),
                "Both (ms an example)": cost(row, "cache_seconds", "epoch_seconds"),
                "Tokens an example": f"{row['tokens_an_example']:.1f}",
                "Padding (%)": f"{100 * row['padding_share']:.1f}",
                f"Peak memory (MB) after {row['step']} steps": (
                    f"{row['peak_mb_at_step']:,.0f} (x {row['peak_mb_at_step'] / rows[0]['peak_mb_at_step']:.3f})"
                ),
                "At the end": f"{row['peak_mb']:,.0f}",
            }
            for row in rows
        ]
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5_000, 20_000, 67_349], help="numbers of sentences")
    parser.add_argument("--name", default="training_scaling", help="name of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
