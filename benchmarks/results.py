"""Where and how all benchmarks leave their figures."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def write_results(name: str, rows: Sequence[Mapping], report: str) -> None:
    """All runs to `docs/results/NAME.csv`, the tables made of them to `NAME.md` and to the terminal."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / f"{name}.md").write_text(report + "\n")
    print(report)
