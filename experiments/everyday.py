"""How many everyday sentences the models of the app classify correctly.

    python -m experiments.everyday --model_dir outputs/toxic_comments-odd --name everyday
    python -m experiments.everyday --model_dir STUDENT --name fresh --sentences tests/fresh_sentences.csv

Half of the sentences are toxic, in both files. All were written without a look at models or training data. The
number of correct answers by kind of sentence goes to `docs/results/NAME.md`, every answer to `NAME.csv`.
"""

import argparse
import csv
from collections import Counter

from app.models import BACKENDS, load_model
from benchmarks.results import ROOT, write_results
from training.tables import markdown_table

SENTENCES = ROOT / "tests" / "everyday_sentences.csv"  # 60; fresh_sentences.csv has 120


def main():
    args = parse_arguments()
    with open(args.sentences, encoding="utf-8", newline="") as file:
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
                    "probability": f"{max(answer.scores.values()):.3f}",
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

    # One row for each kind and one column for each model.
    kinds = [{"Sentences": kind, **{row["Model"]: row[kind] for row in rows}} for kind in rows[0] if kind != "Model"]
    write_results(args.name, answers, markdown_table(kinds))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model_dir", action="append", required=True, help="folder of a model, as for `python -m app`; repeatable"
    )
    parser.add_argument(
        "--sentences", default=SENTENCES, help="csv file with text, label and kind (default: %(default)s)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="default: %(default)s")
    parser.add_argument(
        "--toxic_labels",
        nargs="+",
        default=["toxic", "hate_speech", "offensive_language"],
        help="labels of the models that count as toxic (default: %(default)s)",
    )
    parser.add_argument("--name", default="everyday", help="name of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
