"""Result files in `docs/results/`, of benchmarks and experiments alike.

write_results("training_speed", rows, markdown_table(summary))    # docs/results/training_speed.csv and .md
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"


def write_results(name: str, rows: Sequence[Mapping], report: str) -> None:
    """Writes all runs to `docs/results/NAME.csv`, and the tables made of them to `NAME.md` and to the terminal."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / f"{name}.md").write_text(report + "\n", encoding="utf-8")
    print(report)
