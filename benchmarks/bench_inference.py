"""Speed, size and quality of a teacher and its student in PyTorch, ONNX and int8, on the processor.

    python run_export.py --model_name_or_path outputs/davidson-even/teacher
    python run_export.py --model_name_or_path outputs/davidson-even
    python benchmarks/bench_inference.py --teacher outputs/davidson-even/teacher --student outputs/davidson-even \\
        --data_file ../shared/data/davidson/test.csv --name inference

Every variant runs over the same tokenised batches of the file (columns `text`, `label`), in its order. The variants
take turns, so that a change in the machine's speed meets all alike: of the rounds each batch's median counts, and the
ratios come with their range over the rounds. Times are of the model alone, without tokenising. The table goes to
`docs/results/NAME.md` and `NAME.csv`.
"""

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporting import model_inputs  # noqa: E402
from reporting import markdown_table  # noqa: E402

BATCH_SIZES = (1, 8, 32)
TEACHERS = ("teacher PyTorch", "teacher ONNX")


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(Path(args.student) / "onnx")
    with open(args.data_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: args.max_examples]
    variants = {
        "teacher PyTorch": load_pytorch(args.teacher),
        "teacher ONNX": load_onnx(args.teacher, "model.onnx", args.threads),
        "student PyTorch": load_pytorch(args.student),
        "student ONNX": load_onnx(args.student, "model.onnx", args.threads),
        "student int8": load_onnx(args.student, "model_int8.onnx", args.threads),
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
        seconds = {name: np.empty((args.rounds, len(batches))) for name in variants}
        logits = {name: [None] * len(batches) for name in variants}
        for turn, (name, (run, _)) in itertools.product(range(args.rounds), variants.items()):
            for batch in batches[:3]:  # warm-up
                run(batch)
            for i, batch in enumerate(batches):
                start = time.perf_counter()
                logits[name][i] = run(batch)
                seconds[name][turn, i] = time.perf_counter() - start
        totals = {name: times.sum(axis=1) for name, times in seconds.items()}  # of each round
        for name, (_, size) in variants.items():
            predictions = np.concatenate(logits[name]).argmax(axis=1)
            times = np.median(seconds[name], axis=0)
            results.append(
                {
                    "variant": name,
                    "batch_size": batch_size,
                    "p50_ms": 1000 * np.median(times),
                    "p95_ms": 1000 * np.percentile(times, 95),
                    "examples_per_second": len(rows) / times.sum(),
                    **{
                        f"times_{teacher.replace(' ', '_')}_{which}": which_of(totals[teacher] / totals[name])
                        for teacher in TEACHERS
                        for which, which_of in (("median", np.median), ("least", np.min), ("most", np.max))
                    },
                    "megabytes": size,
                    "accuracy": accuracy_score(labels, predictions),
                    "macro_f1": f1_score(labels, predictions, average="macro"),
                }
            )
            print({key: round(float(value), 4) for key, value in results[-1].items() if key != "variant"}, name)

    write_results(results, args)


def load_pytorch(folder: str) -> tuple[Callable, float]:
    """A function from a batch of NumPy arrays to logits, and the size of the weights' file in MB."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    names = model_inputs(model)

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
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


def write_results(results: list[dict], args: argparse.Namespace) -> None:
    """The csv file, and the table with how many times as quick each variant is as the teacher's two."""
    folder = ROOT / "docs" / "results"
    with open(folder / f"{args.name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(results[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)
    table = markdown_table(
        [
            {
                "Variant": row["variant"],
                "Batch": str(row["batch_size"]),
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
    (folder / f"{args.name}.md").write_text(table + "\n")
    print(table)


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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="inference", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
