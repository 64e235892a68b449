"""Measure how far every engine is from one process, and what memory it takes, and write the table.

    python -m benchmarks.engines

Ten optimizer steps of a tiny model with the global batch of 16, for distillation, LoRA and fine-tuning; peak memory
for a model of BERT-base's size. Processors only, two processes. Writes `docs/results/engines.csv` in a few minutes.
"""

import csv
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.engine_runs import ENGINES, measure_memory, results, save_teachers, train_under, trained_weights
from tests.workers.engine_worker import METHODS

ROOT = Path(__file__).resolve().parent.parent


def main():
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    with open(ROOT / "docs" / "results" / "engines.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measure(folder: Path) -> list[dict]:
    save_teachers(folder / "teachers")
    rows = []
    for engine in ENGINES:
        print(engine, flush=True)
        (folder / engine).mkdir()
        train_under(engine, folder / "teachers", folder / engine).check_returncode()
        row = {"engine": engine}
        for method in METHODS:
            row |= differences(folder / engine, folder / "one process", method)
        row["teacher_sharded"] = results(folder / engine, "distillation")["teacher"]["is_sharded"]
        row["teacher_unchanged"] = results(folder / engine, "distillation")["teacher"]["is_unchanged"]
        memory_is_of_interest = engine in ("DDP", "ZeRO-2", "ZeRO-3")
        row["peak_memory_mb"] = round(measure_memory(engine, folder)) if memory_is_of_interest else ""
        rows.append(row)
    return rows


def differences(ours: Path, reference: Path, method: str) -> dict[str, str]:
    """Largest relative differences of logged losses, evaluation loss and trained weights."""
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
