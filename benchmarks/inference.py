"""Speed, size and quality of a teacher and its student on the processor: PyTorch, ONNX and int8.

    python run_export.py --model_name_or_path outputs/davidson-even/teacher
    python run_export.py --model_name_or_path outputs/davidson-even
    python -m benchmarks.inference --teacher outputs/davidson-even/teacher --student outputs/davidson-even \\
        --data_file test.csv --name inference

All variants run over the same tokenized batches of the file, in its order, in two ways: one batch at a time on all
cores, and one batch on each core. The table gives the quicker way of each variant. All variants and ways take turns,
so that a change in the machine's speed affects them alike. Speeds are medians over the rounds; ratios come with their
range. Times are those of the model alone, without tokenizing. Writes `docs/results/NAME.csv` and `NAME.md`.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.results import write_results
from export.arguments import FLOAT32_FILE, INT8_FILE
from export.float32 import model_inputs
from training.tables import markdown_table

BATCH_SIZES = (1, 8, 32)
TEACHERS = ("teacher PyTorch", "teacher ONNX")


class Way(NamedTuple):
    """A way to use the cores."""

    title: str
    threads: int  # of a batch
    batches: int  # that run at a time


class Loaded(NamedTuple):
    """A model that is ready."""

    run: Callable[[dict[str, np.ndarray]], np.ndarray]  # a batch to logits
    megabytes: float  # of the file of the weights


class Pass(NamedTuple):
    """One pass over all batches."""

    seconds: float
    seconds_a_batch: list[float]
    logits: list[np.ndarray]


def main():
    args = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(Path(args.student) / "export")
    label2id = AutoConfig.from_pretrained(args.student).label2id
    with open(args.data_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: args.max_examples]
    texts, labels = [row["text"] for row in rows], np.array([label2id[row["label"]] for row in rows])
    cores = len(os.sched_getaffinity(0))
    ways = (Way("a batch on all cores", cores, 1), Way("a batch a core", 1, cores))
    variants = {
        (name, way): load(way.threads)
        for way in ways
        for name, load in {
            "teacher PyTorch": lambda threads: load_pytorch(args.teacher, threads),
            "teacher ONNX": lambda threads: load_onnx(args.teacher, FLOAT32_FILE, threads),
            "student PyTorch": lambda threads: load_pytorch(args.student, threads),
            "student ONNX": lambda threads: load_onnx(args.student, FLOAT32_FILE, threads),
            "student int8": lambda threads: load_onnx(args.student, INT8_FILE, threads),
        }.items()
    }
    results = []
    for batch_size in BATCH_SIZES:
        batches = [
            dict(tokenizer(texts[i : i + batch_size], padding=True, truncation=True, return_tensors="np"))
            for i in range(0, len(texts), batch_size)
        ]
        passes = {variant: [] for variant in variants}
        for _ in range(args.rounds):
            for variant, model in variants.items():
                passes[variant].append(run_all(model.run, batches, workers=variant[1].batches))
        results += [
            {"variant": name, "batch_size": batch_size, **row}
            for name, row in quicker_ways(variants, passes, labels).items()
        ]
        for row in results[-len(variants) // len(ways) :]:
            print(row, flush=True)
    write_results(args.name, results, speed_table(results))


def quicker_ways(
    variants: dict[tuple[str, Way], Loaded], passes: dict[tuple[str, Way], list[Pass]], labels: np.ndarray
) -> dict[str, dict]:
    """Returns the figures of every model in the way that is quicker for it, by the model's name."""
    totals = {variant: np.array([each.seconds for each in of_variant]) for variant, of_variant in passes.items()}
    quicker = {}
    for name, way in variants:
        if name not in quicker or np.median(totals[name, way]) < np.median(totals[name, quicker[name]]):
            quicker[name] = way
    rows = {}
    for name, way in quicker.items():
        total, seconds_a_batch = totals[name, way], [each.seconds_a_batch for each in passes[name, way]]
        milliseconds = 1000 * np.median(seconds_a_batch, axis=0)
        predictions = np.concatenate(passes[name, way][0].logits).argmax(axis=1)
        ratios = {teacher: totals[teacher, quicker[teacher]] / total for teacher in TEACHERS}
        rows[name] = {
            "way": way.title,
            "p50_ms": np.median(milliseconds),
            "p95_ms": np.percentile(milliseconds, 95),
            "examples_per_second": len(labels) / np.median(total),
            **{
                f"times_{teacher.replace(' ', '_')}_{which}": of_ratio(ratios[teacher])
                for teacher in TEACHERS
                for which, of_ratio in (("median", np.median), ("least", np.min), ("most", np.max))
            },
            "megabytes": variants[name, way].megabytes,
            "accuracy": accuracy_score(labels, predictions),
            "macro_f1": f1_score(labels, predictions, average="macro"),
        }
    return rows


def run_all(run: Callable, batches: Sequence[dict[str, np.ndarray]], workers: int) -> Pass:
    """Runs the batches, `workers` of them at a time."""

    def timed(batch: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        logits = run(batch)
        return time.perf_counter() - start, logits

    with ThreadPoolExecutor(workers) as executor:
        list(executor.map(run, batches[:4]))  # warm-up
        start = time.perf_counter()
        seconds, logits = zip(*executor.map(timed, batches), strict=True)
        return Pass(time.perf_counter() - start, list(seconds), list(logits))


def load_pytorch(folder: str, threads: int) -> Loaded:
    """Loads a checkpoint, to run each batch on so many threads."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    names = model_inputs(model)

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        torch.set_num_threads(threads)  # of the calling thread
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(batch[name]) for name in names}).logits.numpy()

    return Loaded(run, (Path(folder) / "model.safetensors").stat().st_size / 1e6)


def load_onnx(folder: str, file: str, threads: int) -> Loaded:
    """Loads a file of a checkpoint's export, to run each batch on so many threads."""
    path = Path(folder) / "export" / file
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        return session.run(["logits"], {name: batch[name] for name in names})[0]

    return Loaded(run, path.stat().st_size / 1e6)


def speed_table(results: list[dict]) -> str:
    """Returns the table: every variant at every batch size, with its speed relative to the teacher's."""
    return markdown_table(
        [
            {
                "Variant": row["variant"],
                "Batch": str(row["batch_size"]),
                "Quicker with": row["way"],
                "p50 (ms)": f"{row['p50_ms']:.2f}",
                "p95 (ms)": f"{row['p95_ms']:.2f}",
                "Examples/s": f"{row['examples_per_second']:.0f}",
                **{f"x {teacher}": ratio(row, teacher) for teacher in TEACHERS},
                "Size (MB)": f"{row['megabytes']:.1f}",
                "Accuracy (%)": f"{100 * row['accuracy']:.2f}",
                "Macro-F1 (%)": f"{100 * row['macro_f1']:.2f}",
            }
            for row in results
        ]
    )


def ratio(row: dict, teacher: str) -> str:
    """Returns how many times as quick as the teacher a variant is: median over the rounds, and range."""
    median, least, most = (row[f"times_{teacher.replace(' ', '_')}_{which}"] for which in ("median", "least", "most"))
    return f"{median:.1f} ({least:.1f} to {most:.1f})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher", required=True, help="folder of the checkpoint, which holds its export in `export`"
    )
    parser.add_argument(
        "--student", required=True, help="folder of the checkpoint, which holds its export in `export`"
    )
    parser.add_argument("--data_file", required=True, help="csv file with the columns text and label")
    parser.add_argument("--max_examples", type=int, help="number of rows, from the first; unset: all")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each variant over the file")
    parser.add_argument("--name", default="inference", help="name of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
