"""A whole sweep over layer strategies, end to end: the notebook's loop against ours in float32 and in bfloat16.

    python -m benchmarks.sweep_speed --examples 384                         # the embedded data set
    python -m benchmarks.sweep_speed --train_file train.csv --test_file test.csv --examples 1536 --test_examples 2000
    python -m benchmarks.sweep_speed --train_file train.csv --test_file test.csv --examples 384 --test_examples 1000 \\
        --teacher outputs/tweets/teacher --label_order hate_speech,offensive_language,neither

Four strategies of 3 epochs each. The clock runs from loading the teacher for the first student to the last step of the
last one, building the cache included, scoring on the test split not. Each sweep has a process of its own; those of one
seed follow each other, in an order that is reversed for the next seed. Writes `docs/results/NAME.csv` and `.md`.
"""

import argparse
import tempfile
import time
from operator import itemgetter
from pathlib import Path
from statistics import mean, stdev

from transformers import set_seed

from benchmarks.results import write_results
from benchmarks.training_setup import (
    PRECISIONS,
    Setup,
    add_setup_arguments,
    describe_machine,
    in_own_process,
    median_and_range,
    our_trainer,
    prepare,
    random_batches,
    score,
    student_of,
    synchronize,
    train_like_the_notebook,
    with_stored_outputs,
)
from experiments.runs import grouped
from layer_distillation.arguments import bf16_in_hardware
from training.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent

STRATEGIES = ("top", "bottom", "odd", "even")
NUM_EPOCHS = 3
# How many times as fast as the notebook's loop each of ours should be.
WANTED = {("ours", "float32"): 3, ("ours", "bfloat16"): 4.5}


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
            our_trainer(setup, student, train_dataset, setup.collator, **settings).train()
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
    """Speed as the ratio to the notebook's loop with the same seed; quality as the mean over strategies and seeds."""
    sweeps = grouped(rows, key=itemgetter("method", "precision"))
    notebook = sweeps["notebook", "float32"]
    macro_f1 = {
        key: [mean(row[f"macro_f1_{strategy}"] for strategy in STRATEGIES) for row in group]
        for key, group in sweeps.items()
    }
    lines = []
    for (method, precision), group in sweeps.items():
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(notebook, group, strict=True)]
        values = macro_f1[method, precision]
        difference = mean(values) - mean(macro_f1["notebook", "float32"])
        wanted = WANTED.get((method, precision))
        lines.append(
            {
                "Sweep": {"notebook": "The notebook's loop", "ours": "Ours"}[method],
                "Precision": precision,
                "Seconds": median_and_range([row["seconds"] for row in group], 1),
                "Times as fast": median_and_range(ratios),
                "Asked for": f">= {wanted}" if wanted else "",
                "Macro-F1 (%)": f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if values[1:] else ""),
                "Difference (asked for >= -0.5)": f"{100 * difference:+.2f}",
            }
        )
    return markdown_table(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setup_arguments(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--name", default="training_sweep", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
