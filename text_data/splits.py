"""Splits: their names, splitting off a validation split, and the first n examples."""

import math
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute
from datasets import ClassLabel, Dataset, DatasetDict, List
from sklearn.model_selection import train_test_split

from layer_distillation.errors import UserError
from text_data.arguments import DataArguments


def splits_for(purpose: str, names: Iterable[str]) -> tuple[str, ...]:
    """The split names for "validation" or "test": `("validation_matched", "validation_mismatched")` for MNLI."""
    return tuple(name for name in names if name == purpose or name.startswith(f"{purpose}_"))


def with_validation_split(splits: DatasetDict, source: str, percentage: int | None, seed: int) -> DatasetDict:
    """Returns the splits with a validation split: the one they have, or `percentage` of the training split.

    Raises:
        UserError: there is a validation split and a percentage, or neither, or no training example would be left.
    """
    validation = splits_for("validation", splits)
    if validation and percentage is None:
        return splits
    if validation:
        raise UserError(
            f"--validation_split_percentage is for data without a validation split, but {source} has "
            f"{', '.join(validation)}. Leave --validation_split_percentage out."
        )
    if percentage is None:
        raise UserError(
            f"The data must have a validation split to choose by, but {source} has only {', '.join(splits)}. Add "
            "--validation_file, or split off training data: --validation_split_percentage, for example 10."
        )
    train = splits["train"]
    num_left = len(train) - math.ceil(len(train) * percentage / 100)
    if num_left < 1:
        raise UserError(
            f"--validation_split_percentage must leave rows to train on, but {percentage} leaves {num_left} of "
            f"{len(train)}. Lower the percentage, or add rows."
        )
    train_rows, validation_rows = train_test_split(
        range(len(train)),
        test_size=percentage / 100,
        random_state=seed,
        stratify=train["label"][:] if _can_stratify(train, percentage) else None,
    )
    # In memory: `select` would otherwise write the indices next to the data, which may be a read-only folder.
    train, validation = (train.select(sorted(rows), keep_in_memory=True) for rows in (train_rows, validation_rows))
    return DatasetDict({**splits, "train": train, "validation": validation})


def _can_stratify(train: Dataset, percentage: int) -> bool:
    """Whether every label has two examples, and both parts have room for every label."""
    if not isinstance(train.features["label"], ClassLabel):
        return False
    counts = Counter(train["label"])
    smaller_part = len(train) * min(percentage, 100 - percentage) // 100
    return min(counts.values()) >= 2 and smaller_part >= len(counts)


def limited(splits: DatasetDict, data_args: DataArguments) -> DatasetDict:
    """Returns the first examples of every split, as many as `data_args` allow.

    Raises:
        UserError: none of the labels that are left in a split is known.
    """
    limits = {
        "train": data_args.max_train_samples,
        **dict.fromkeys(splits_for("validation", splits), data_args.max_eval_samples),
        **dict.fromkeys(splits_for("test", splits), data_args.max_predict_samples),
    }
    first = {name: split.select(range(min(limits[name] or len(split), len(split)))) for name, split in splits.items()}
    for name, split in first.items():
        _check_some_label_is_known(split, name)
    return DatasetDict(first)


def _check_some_label_is_known(split: Dataset, name: str) -> None:
    if isinstance(split.features.get("label"), List):
        shares = pa.compute.list_flatten(split.with_format("arrow")["label"][:])
        if pa.compute.all(pa.compute.is_nan(shares)).as_py():
            raise UserError(
                f"Some labels of each split must be known, but none of the {len(split)} examples of {name} has one. "
                "Use more of them (--max_train_samples, --max_eval_samples, --max_predict_samples, "
                "--validation_split_percentage)."
            )
