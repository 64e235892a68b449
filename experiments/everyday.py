"""How models that the app serves do on 60 everyday sentences that none of them was trained on.

    python -m experiments.everyday --model_dir outputs/toxic_comments-even --name everyday

The sentences (`tests/everyday_sentences.csv`) were written before any model saw them, half of them toxic. A table of
how many each model gets right, by kind, goes to `docs/results/NAME.md`, every answer to `NAME.csv`. Which labels of a
model count as toxic, `--toxic_labels` says.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

from app.models import BACKENDS, load_model
from training.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent

SENTENCES = ROOT / "tests" / "everyday_sentences.csv"


def main():
    args = parse_arguments()
    with open(SENTENCES, encoding="utf-8", newline="") as file:
        sentences = list(csv.DictReader(file))
    answers, rows = [], []
    for folder in args.model_dir:
        model = load_model(folder, args.backend)
        found = model.classify([sentence["text"] for sentence in sentences])
        right = Counter()
        for sentence, answer in zip(sentences, found, strict=True):
            is_right = (answer.label in args.toxic_labels) == (sentence["label"] == "toxic")
            right[sentence["label"], sentence["kind"]] += is_right
            answers.append(
                {
                    **sentence,
                    "model": model.name,
                    "answer": answer.label,
                    "probability": f"{answer.scores[answer.label]:.3f}",
                    "right": int(is_right),
                }
            )
        row = {
            "Model": model.name,
            "All": f"{right.total()} of {len(sentences)} ({right.total() / len(sentences):.0%})",
        }
        for (label, kind), count in Counter((row["label"], row["kind"]) for row in sentences).items():
            row[f"{label.replace('_', ' ')}: {kind}"] = f"{right[label, kind]}/{count}"
        rows.append(row)

    results = ROOT / "docs" / "results"
    with open(results / f"{args.name}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(answers[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(answers)
    # A row for each kind reads better than a column.
    kinds = [{"Sentences": kind, **{row["Model"]: row[kind] for row in rows}} for kind in rows[0] if kind != "Model"]
    table = markdown_table(kinds)
    (results / f"{args.name}.md").write_text(table + "\n")
    print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", action="append", required=True, help="as for the app; may be repeated")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    parser.add_argument("--toxic_labels", nargs="+", default=["toxic", "hate_speech", "offensive_language"])
    parser.add_argument("--name", default="everyday", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
