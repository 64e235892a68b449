"""Counterfactual comments: the training comments again, with another identity in place of each one that they mention.

    python -m experiments.identity_swaps --output_file swapped.csv
    D=data/toxic_comments; python run_distillation.py defaults/run_distillation.json --train_file swapped.csv \
        --validation_file $D/validation.csv --test_file $D/test.csv --output_dir swapped

An identity is exchanged for one of the same kind, drawn by chance, so that the label stays right. The file holds the
comments and `--copies` changed copies of each comment that mentions an identity.
"""

import argparse
import csv
import random
import re

from benchmarks.results import ROOT

TRAIN = ROOT / "data" / "toxic_comments" / "train.csv"
KINDS = (
    ("lesbian", "gay", "bisexual", "queer", "homosexual", "straight", "heterosexual"),
    ("trans", "transgender", "cis", "nonbinary"),
    ("African American", "Black", "white", "Hispanic", "Latino", "Latina", "Asian", "Middle Eastern"),
    ("African", "European", "Mexican", "Canadian", "American", "Indian", "Chinese", "Japanese"),
    ("Christian", "Muslim", "Jewish", "Buddhist", "Catholic", "Protestant", "Sikh", "Taoist"),
    ("old", "older", "young", "younger", "teenage", "middle-aged", "elderly"),
    ("blind", "deaf", "paralyzed"),
)
KIND_OF = {name.casefold(): kind for kind in KINDS for name in kind}
# Longest first, so that "African American" is not taken for "African".
PATTERN = re.compile(
    rf"\b(?:(?P<article>an?) )?(?P<name>{'|'.join(sorted(KIND_OF, key=len, reverse=True))})(?P<plural>s?)\b",
    re.IGNORECASE,
)


def swap(text: str, generator: random.Random) -> str:
    """Returns the text with each identity exchanged, every mention of one identity for the same other one."""
    chosen = {}

    def replace(match: re.Match) -> str:
        name = match["name"].casefold()
        others = [other for other in KIND_OF[name] if other.casefold() != name]
        new = chosen.setdefault(name, generator.choice(others))
        if match["article"] is None:
            return new + match["plural"]
        article = "an" if new[0] in "AIeo" else "a"  # "a European"
        return f"{article.capitalize() if match['article'][0] == 'A' else article} {new}{match['plural']}"

    return PATTERN.sub(replace, text)


def main() -> None:
    args = parse_arguments()
    with open(TRAIN, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    generator = random.Random(args.seed)
    swapped = [
        {"text": swap(row["text"], generator), "label": row["label"]}
        for row in rows
        if PATTERN.search(row["text"])
        for _ in range(args.copies)
    ]
    with open(args.output_file, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *swapped])
    print(f"{len(rows)} comments and {len(swapped)} with other identities")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_file", required=True, help="csv file to write")
    parser.add_argument("--copies", type=int, default=1, help="changed copies of a comment (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the exchange (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
