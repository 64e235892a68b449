"""The time of a sweep over layer strategies, end to end: the notebook's loop against our trainer.

    python -m benchmarks.sweep_speed --examples 384                         # the sample data set
    python -m benchmarks.sweep_speed --train_file train.csv --test_file test.csv --examples 1536 --test_examples 2000
    python -m benchmarks.sweep_speed --train_file train.csv --test_file test.csv --examples 384 --test_examples 1000 \\
        --teacher outputs/tweets/teacher --label_order hate_speech,offensive_language,neither

A sweep trains a student of each of four strategies for 3 epochs: with the notebook's loop in float32, with our trainer
in float32 and in bfloat16. The time runs from loading the teacher for the first student to the last step of the last
student. It includes building the teacher cache; it excludes scoring. Each sweep runs in a process of its own. The
sweeps of one seed follow each other, and the next seed takes them in reverse order. Writes `docs/results/NAME.csv` and
`NAME.md`.
"""

import argparse
import tempfile
import time
from operator import itemgetter
from statistics import mean, stdev

from transformers import set_seed

from benchmarks.measuring import describe_machine, in_own_process, median_and_range, ratios_within_rounds, synchronize
from benchmarks.results import write_results
from benchmarks.training_setup import (
    PRECISIONS,
    Setup,
    add_setup_arguments,
    our_trainer,
    prepare,
    random_batches,
    score,
    student_of,
    train_like_the_notebook,
    with_stored_outputs,
)
from layer_distillation.arguments import bf16_in_hardware
from training.tables import grouped, markdown_table

STRATEGIES = ("top", "bottom", "odd", "even")
NUM_EPOCHS = 3


def main():
    args = parse_arguments()
    sweeps = [("notebook", False), *(("ours", bf16) for bf16 in PRECISIONS if bf16_in_hardware() or not bf16)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(args, folder)
        num_examples = len(setup.splits["train"])
        for index, seed in enumerate(args.seeds):
            for method, bf16 in sweeps if index % 2 == 0 else reversed(sweeps):
                rows.append(in_own_process(sweep, method, bf16, seed, setup))
                print(rows[-1], flush=True)
    rows.sort(key=lambda row: (row["method"], row["precision"] == "bfloat16", row["seed"]))
    heading = (
        f"{num_examples:,} examples, {len(STRATEGIES)} strategies of {NUM_EPOCHS} epochs, {len(args.seeds)} seeds; "
        f"median [smallest - largest]. {describe_machine()}"
    )
    write_results(args.name, rows, f"{heading}\n\n{summary(rows)}")


def sweep(method: str, bf16: bool, seed: int, setup: Setup) -> dict:
    """Trains and scores a student of every strategy; returns a row of the results.

    Args:
        method: "notebook" or "ours".
    """
    cache_dir = setup.folder / f"cache-{PRECISIONS[bf16]}-{seed}"
    started, students = time.perf_counter(), {}
    for strategy in STRATEGIES:
        teacher = setup.load_teacher()
        set_seed(seed)
        student = student_of(teacher, strategy)
        if method == "notebook":
            batches = random_batches(setup.splits["train"], setup.collator, seed)
            train_like_the_notebook(student, teacher, batches, NUM_EPOCHS)
        else:
            train_dataset = with_stored_outputs(setup, teacher, cache_dir, bf16)
            settings = {"bf16": bf16, "seed": seed, "num_train_epochs": NUM_EPOCHS}
            our_trainer(setup, student, train_dataset, settings, data_collator=setup.collator).train()
        students[strategy] = student
    synchronize()
    seconds = time.perf_counter() - started
    return {
        "method": method,
        "precision": PRECISIONS[bf16],
        "seed": seed,
        "seconds": round(seconds, 2),
        **{f"macro_f1_{name}": round(score(student, setup)["macro_f1"], 4) for name, student in students.items()},
    }


def summary(rows: list[dict]) -> str:
    """Returns the table: speed relative to the notebook's loop with the same seed, and mean quality."""
    sweeps = grouped(rows, key=itemgetter("method", "precision"))
    seconds = {key: [row["seconds"] for row in group] for key, group in sweeps.items()}
    macro_f1 = {
        key: [mean(row[f"macro_f1_{strategy}"] for strategy in STRATEGIES) for row in group]
        for key, group in sweeps.items()
    }
    lines = []
    for method, precision in sweeps:
        values = macro_f1[method, precision]
        difference = mean(values) - mean(macro_f1["notebook", "float32"])
        lines.append(
            {
                "Sweep": {"notebook": "The notebook's loop", "ours": "Ours"}[method],
                "Precision": precision,
                "Seconds": median_and_range(seconds[method, precision], 1),
                "Times as fast": ratios_within_rounds(seconds["notebook", "float32"], seconds[method, precision]),
                "Macro-F1 (%)": f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if values[1:] else ""),
                "Difference (points)": f"{100 * difference:+.2f}",
            }
        )
    return markdown_table(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setup_arguments(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="a sweep of each kind for each seed")
    parser.add_argument("--name", default="training_sweep", help="name of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
