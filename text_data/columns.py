"""Which columns hold the text, and checks of what is in them."""

import re
from collections.abc import Sequence

from datasets import Dataset

from layer_distillation.errors import UserError
from text_data.arguments import GLUE_TEXT_COLUMNS, DataArguments
from text_data.splits import RawSplit

# Pairs first: `question, sentence` also holds `sentence`.
WELL_KNOWN_TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
    ("tweet",),
    ("comment",),
    ("comment_text",),
    ("content",),
    ("review",),
)
WELL_KNOWN_LABEL_COLUMNS = ("label", "labels")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def find_text_columns(data_args: DataArguments, train: Dataset) -> tuple[str, ...]:
    if data_args.text_columns:
        return data_args.text_columns
    if data_args.task_name is not None:
        return GLUE_TEXT_COLUMNS[data_args.task_name]
    for columns in WELL_KNOWN_TEXT_COLUMNS:
        if set(columns) <= set(train.column_names):
            return columns
    labels = {data_args.label_column_name, *WELL_KNOWN_LABEL_COLUMNS}
    candidates = tuple(column for column in train.column_names if column not in labels and _is_text(train, column))
    if len(candidates) not in (1, 2):
        raise UserError(
            "The text must be in a column with a well-known name, or in the only one or two columns of strings, but "
            f"found {len(candidates)} of them among the columns {', '.join(train.column_names)}. "
            "Name it: text_column_name."
        )
    return candidates


def _is_text(data: Dataset, column: str) -> bool:
    """Whether a column holds strings that are more than the numbers (ids, counts) that csv files hold as well."""
    sample = data.select(range(min(1000, len(data))))[column]
    return is_string(data.features[column]) and not all(value and NUMBER.fullmatch(value) for value in sample)


def is_string(feature: object) -> bool:
    return dtype_of(feature) in ("string", "large_string")


def dtype_of(feature: object) -> str:
    return getattr(feature, "dtype", "")  # nested features have none


def check_text(split: RawSplit, column: str) -> None:
    if column not in split.data.column_names:
        raise UserError(
            f"{split.where} must have the text column {column!r}, but found the columns "
            f"{', '.join(split.data.column_names)}. Name it: text_column_name."
        )
    if not is_string(split.data.features[column]):
        raise UserError(
            f"Text must be strings, but column {column!r} of {split.where} holds {split.data.features[column]}. "
            "Choose another one: text_column_name."
        )
    check_none_missing("text", split.data[column][:], split.where)


def check_none_missing(what: str, values: Sequence, where: str) -> None:
    missing = [row for row, value in enumerate(values, 1) if value is None]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"Every row must have a {what}, but in {where} {len(missing)} of {len(values)} rows have none: "
            f"row {shown} (counted from 1, without a header). Fill in the {what} or remove the rows."
        )
