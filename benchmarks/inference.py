"""Speed, size and quality of a teacher and its student in PyTorch, ONNX and int8, on the processor.

    python run_export.py --model_name_or_path outputs/davidson-even/teacher
    python run_export.py --model_name_or_path outputs/davidson-even
    python -m benchmarks.inference --teacher outputs/davidson-even/teacher --student outputs/davidson-even \\
        --data_file ../shared/data/davidson/test.csv --name inference

Every variant runs over the same tokenised batches of the file (columns `text`, `label`), in its order, and in two
ways: one batch at a time on all cores, and a batch a core. The quicker one counts for each. All take turns, so that a
change in the machine's speed meets all alike: figures are medians of the rounds, ratios come with their range over
them. Times are of the model alone, without tokenising. The table goes to `docs/results/NAME.md` and `NAME.csv`.
"""

import argparse
import csv
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.results import write_results
from export.float32 import model_inputs
from training.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent

BATCH_SIZES = (1, 8, 32)
TEACHERS = ("teacher PyTorch", "teacher ONNX")


def main():
    args = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(Path(args.student) / "onnx")
    with open(args.data_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: args.max_examples]
    cores = len(os.sched_getaffinity(0))
    # Threads of a batch, and batches at a time.
    ways = {"a batch on all cores": (cores, 1), "a batch a core": (1, cores)}
    variants = {
        (name, way): load(threads)
        for way, (threads, _) in ways.items()
        for name, load in {
            "teacher PyTorch": lambda threads: load_pytorch(args.teacher, threads),
            "teacher ONNX": lambda threads: load_onnx(args.teacher, "model.onnx", threads),
            "student PyTorch": lambda threads: load_pytorch(args.student, threads),
            "student ONNX": lambda threads: load_onnx(args.student, "model.onnx", threads),
            "student int8": lambda threads: load_onnx(args.student, "model_int8.onnx", threads),
        }.items()
    }
    config = AutoModelForSequenceClassification.from_pretrained(args.student).config
    labels = np.array([config.label2id[row["label"]] for row in rows])

    results = []
    for batch_size in BATCH_SIZES:
        texts = [row["text"] for row in rows]
        batches = [
            dict(tokenizer(texts[i : i + batch_size], padding=True, truncation=True, return_tensors="np"))
            for i in range(0, len(texts), batch_size)
        ]
        rounds = {key: [] for key in variants}
        for _, (key, (run, _)) in itertools.product(range(args.rounds), variants.items()):
            rounds[key].append(run_all(run, batches, workers=ways[key[1]][1]))
        best = {}
        for name, way in variants:
            total = np.median([seconds for seconds, _, _ in rounds[name, way]])
            best[name] = min(best.get(name, (np.inf, "")), (total, way))
        totals = {name: np.array([seconds for seconds, _, _ in rounds[name, way]]) for name, (_, way) in best.items()}
        for name, (total, way) in best.items():
            times = np.median([times for _, times, _ in rounds[name, way]], axis=0)
            predictions = np.concatenate(rounds[name, way][0][2]).argmax(axis=1)
            results.append(
                {
                    "variant": name,
                    "batch_size": batch_size,
                    "way": way,
                    "p50_ms": 1000 * np.median(times),
                    "p95_ms": 1000 * np.percentile(times, 95),
                    "examples_per_second": len(rows) / total,
                    **{
                        f"times_{teacher.replace(' ', '_')}_{which}": which_of(totals[teacher] / totals[name])
                        for teacher in TEACHERS
                        for which, which_of in (("median", np.median), ("least", np.min), ("most", np.max))
                    },
                    "megabytes": variants[name, way][1],
                    "accuracy": accuracy_score(labels, predictions),
                    "macro_f1": f1_score(labels, predictions, average="macro"),
                }
            )
            print(results[-1], flush=True)

    write_results(args.name, results, speed_table(results))


def run_all(run: Callable, batches: list[dict], workers: int) -> tuple[float, list[float], list[np.ndarray]]:
    """Runs the batches, several at a time: seconds for all of them, seconds of each, and their logits."""

    def timed(batch: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        logits = run(batch)
        return time.perf_counter() - start, logits

    with ThreadPoolExecutor(workers) as executor:
        list(executor.map(run, batches[:4]))  # warm-up
        start = time.perf_counter()
        times, logits = zip(*executor.map(timed, batches), strict=True)
        return time.perf_counter() - start, list(times), list(logits)


def load_pytorch(folder: str, threads: int) -> tuple[Callable, float]:
    """A function from a batch of NumPy arrays to logits, and the size of the weights' file in MB."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    names = model_inputs(model)

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        torch.set_num_threads(threads)  # of the calling thread
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(batch[name]) for name in names}).logits.numpy()

    return run, (Path(folder) / "model.safetensors").stat().st_size / 1e6


def load_onnx(folder: str, file: str, threads: int) -> tuple[Callable, float]:
    """As `load_pytorch`, for a file of the folder's export."""
    path = Path(folder) / "onnx" / file
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda batch: session.run(["logits"], {name: batch[name] for name in names})[0], path.stat().st_size / 1e6


def speed_table(results: list[dict]) -> str:
    """Every variant at every batch size, and how many times as quick it is as the teacher's two."""
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
    """How many times as quick a variant is: the median of the rounds, and their range."""
    median, least, most = (row[f"times_{teacher.replace(' ', '_')}_{which}"] for which in ("median", "least", "most"))
    return f"{median:.1f} ({least:.1f} to {most:.1f})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder of the checkpoint, with its export in `onnx`")
    parser.add_argument("--student", required=True, help="folder of the checkpoint, with its export in `onnx`")
    parser.add_argument("--data_file", required=True, help="csv file with the columns text and label")
    parser.add_argument("--max_examples", type=int, default=None, help="use only the first n rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="inference", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
