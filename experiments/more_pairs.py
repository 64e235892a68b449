"""Sentence pairs without labels, for distilling a teacher of sentence pairs on more text than its labels cover.

    python -m experiments.more_pairs --task_name rte --output_dir outputs/rte_pairs
    python run_distillation.py --train_file outputs/rte_pairs/train.csv \\
        --validation_file outputs/rte_pairs/validation.csv --ce_weight 0 --kl_weight 1 ...

`train.csv` holds the pairs of the task's training and test splits, without labels, and new pairs: each first sentence
with the `--neighbours` second sentences of other pairs that are most similar to it (cosine of TF-IDF vectors).
`validation.csv` is the validation split with its labels; none of its pairs is in `train.csv`.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from sklearn.feature_extraction.text import TfidfVectorizer

from text_data.arguments import DataArguments
from text_data.loading import load_data


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--task_name", default="rte", help="GLUE classification task of sentence pairs, other than mnli"
    )
    parser.add_argument("--neighbours", type=int, default=2, help="further pairs for each first sentence (default: 2)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the two files")
    args = parser.parse_args()
    data = load_data(DataArguments(task_name=args.task_name), seed=0)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    pairs = more_pairs(data.splits, data.text_columns, args.neighbours)
    Dataset.from_dict(dict(zip(data.text_columns, zip(*pairs)))).to_csv(args.output_dir / "train.csv")
    validation = data.splits["validation"]
    names = validation.features["label"].int2str(validation["label"][:])
    validation.remove_columns("label").add_column("label", names).to_csv(args.output_dir / "validation.csv")
    print(f"{len(pairs):,} pairs without labels and {len(validation):,} with labels in {args.output_dir}")


def more_pairs(splits: DatasetDict, columns: tuple[str, str], num_neighbours: int) -> list[tuple[str, str]]:
    """Returns the pairs of the training and test splits, then the new ones; none twice and none of validation."""
    given = [pair for split in ("train", "test") for pair in _pairs(splits[split], columns)]
    firsts, seconds = zip(*given)
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(firsts + seconds)
    first_vectors, second_vectors = vectorizer.transform(firsts), vectorizer.transform(seconds)
    pairs = dict.fromkeys(given)
    for row, (first, its_second) in enumerate(given):
        similarity = (second_vectors @ first_vectors[row].T).toarray()[:, 0]
        by_similarity = dict.fromkeys(seconds[other] for other in np.argsort(-similarity, kind="stable"))
        others = [second for second in by_similarity if second != its_second]
        pairs |= dict.fromkeys((first, second) for second in others[:num_neighbours])
    for pair in _pairs(splits["validation"], columns):
        pairs.pop(pair, None)
    return list(pairs)


def _pairs(split: Dataset, columns: tuple[str, str]) -> list[tuple[str, str]]:
    return list(zip(*(split[column][:] for column in columns)))


if __name__ == "__main__":
    main()
