"""How far the results of every engine are from those of one process, and how much memory each takes.

    python -m benchmarks.engines

A tiny model trains for ten optimizer steps with a global batch of 16: by distillation, with LoRA, by fine-tuning. Peak
memory is that of a model of BERT-base's size. On processors only, with two processes; takes a few minutes. Writes
`docs/results/engines.csv` and `engines.md`.
"""

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.results import write_results
from tests.engine_runs import ENGINES, measure_memory, results, save_teachers, train_under, trained_weights
from tests.workers.engine_worker import METHODS
from training.tables import markdown_table

MEASURED_MEMORY = ("DDP", "ZeRO-2", "ZeRO-3")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="engines", help="name of the result files")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # for the workers, which load nothing from the Hub
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    write_results(args.name, rows, markdown_table([{key: str(value) for key, value in row.items()} for row in rows]))


def measure(folder: Path) -> list[dict]:
    """Trains under every engine; returns a row for each."""
    save_teachers(folder / "teachers")
    rows = []
    for engine in ENGINES:
        print(engine, flush=True)
        (folder / engine).mkdir()
        train_under(engine, folder / "teachers", folder / engine).check_returncode()
        row = {"engine": engine}
        for method in METHODS:
            row |= differences(folder / engine, folder / "one process", method)
        teacher = results(folder / engine, "distillation")["teacher"]
        row["teacher_sharded"], row["teacher_unchanged"] = teacher["is_sharded"], teacher["is_unchanged"]
        row["peak_memory_mb"] = round(measure_memory(engine, folder)) if engine in MEASURED_MEMORY else ""
        rows.append(row)
    return rows


def differences(ours: Path, reference: Path, method: str) -> dict[str, str]:
    """Returns the largest relative differences of logged losses, evaluation loss and trained weights."""
    run, expected = results(ours, method), results(reference, method)
    steps = [(a["loss"], b["loss"]) for a, b in zip(run["steps"], expected["steps"], strict=True)]
    weights, expected_weights = trained_weights(ours, method), trained_weights(reference, method)
    return {
        f"{method}_loss": f"{max(abs(a - b) / abs(b) for a, b in steps):.0e}",
        f"{method}_eval_loss": f"{abs(run['eval_loss'] - expected['eval_loss']) / expected['eval_loss']:.0e}",
        f"{method}_weights": f"{max(_distance(weights[name], expected_weights[name]) for name in weights):.0e}",
    }


def _distance(weight, expected) -> float:
    return ((weight - expected).norm() / expected.norm().clamp(min=1e-12)).item()


if __name__ == "__main__":
    main()
