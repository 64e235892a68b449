"""Splits: their names, splitting off a validation split, limiting their size."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from datasets import ClassLabel, Dataset, DatasetDict
from sklearn.model_selection import train_test_split

from layer_distillation.errors import UserError
from text_data.arguments import DataArguments


@dataclass(frozen=True)
class RawSplit:
    """A split as its source has it; `where` names it in messages."""

    data: Dataset
    where: str


def splits_for(purpose: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name == purpose or name.startswith(f"{purpose}_"))


def with_validation_split(splits: DatasetDict, source: str, percentage: int | None, seed: int) -> DatasetDict:
    validation = splits_for("validation", splits)
    if validation and percentage is None:
        return splits
    if validation:
        raise UserError(
            f"validation_split_percentage is for data without a validation split, but {source} has "
            f"{', '.join(validation)}. Leave validation_split_percentage out."
        )
    if percentage is None:
        raise UserError(
            f"Training needs a validation split to choose by, but {source} has only {', '.join(splits)}. Give "
            "validation_file, or split some training data off: validation_split_percentage, for example 10."
        )
    train = splits["train"]
    num_left = len(train) - math.ceil(len(train) * percentage / 100)
    if num_left < 1:
        raise UserError(
            f"validation_split_percentage must leave rows to train on, but {percentage} leaves {num_left} of "
            f"{len(train)}. Lower it, or add rows."
        )
    train_rows, validation_rows = train_test_split(
        range(len(train)),
        test_size=percentage / 100,
        random_state=seed,
        stratify=train["label"][:] if _can_stratify(train, percentage) else None,
    )
    # In memory: the indices would otherwise be written next to the data, which may be a read-only folder.
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
    limits = {
        "train": data_args.max_train_samples,
        **dict.fromkeys(splits_for("validation", splits), data_args.max_eval_samples),
        **dict.fromkeys(splits_for("test", splits), data_args.max_predict_samples),
    }
    return DatasetDict(
        {name: split.select(range(min(limits[name] or len(split), len(split)))) for name, split in splits.items()}
    )
