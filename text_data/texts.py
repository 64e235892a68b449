"""The text columns: which columns they are, and the texts of every split.

    columns, texts = select_texts(raw, data_args)    # ("premise", "hypothesis"), {"train": Dataset, ...}

A column name that is found without --text_column_name is one more entry in `WELL_KNOWN_TEXT_COLUMNS`.
"""

from datasets import Dataset

from layer_distillation.errors import UserError
from text_data.arguments import GLUE_TEXT_COLUMNS, DataArguments
from text_data.columns import NUMBER, WELL_KNOWN_LABEL_COLUMNS, check_none_missing, is_string
from text_data.names import join_names
from text_data.sources import RawSplit

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


def select_texts(raw: dict[str, RawSplit], data_args: DataArguments) -> tuple[tuple[str, ...], dict[str, Dataset]]:
    """Returns the names of the one or two text columns, and every split with these columns only.

    Raises:
        UserError: the columns cannot be inferred or are missing, or a text is missing or no string.
    """
    columns = _find_text_columns(raw["train"], data_args)
    for split in raw.values():
        for column in columns:
            _check_texts(split, column)
    return columns, {name: split.data.select_columns(list(columns)) for name, split in raw.items()}


def _find_text_columns(split: RawSplit, data_args: DataArguments) -> tuple[str, ...]:
    if data_args.text_columns:
        return data_args.text_columns
    if data_args.task_name is not None:
        return GLUE_TEXT_COLUMNS[data_args.task_name]
    train = split.data
    found = [column for column in train.column_names if column not in data_args.label_columns]
    for columns in WELL_KNOWN_TEXT_COLUMNS:
        if set(columns) <= set(found):
            return columns
    candidates = tuple(
        column for column in found if column not in WELL_KNOWN_LABEL_COLUMNS and _holds_texts(train, column)
    )
    if len(candidates) != 1:
        raise UserError(
            "The text must be in a column with a well-known name, or in the only column of strings; "
            f"{split.where} has {len(candidates)} columns of strings among {join_names(train.column_names, ', ')}. "
            "Name the text column, or the two columns of pairs: --text_column_name."
        )
    return candidates


def _holds_texts(data: Dataset, column: str) -> bool:
    """Whether a column holds strings other than numbers. In csv files, ids and counts are strings as well."""
    sample = data.select(range(min(1000, len(data))))[column]
    return is_string(data.features[column]) and any(value and not NUMBER.fullmatch(value) for value in sample)


def _check_texts(split: RawSplit, column: str) -> None:
    if column not in split.data.column_names:
        raise UserError(
            f"{split.where} must have the text column {column!r}, but found the columns "
            f"{join_names(split.data.column_names, ', ')}. Name the text column: --text_column_name."
        )
    if not is_string(split.data.features[column]):
        raise UserError(
            f"Text must be strings, but column {column!r} of {split.where} holds {split.data.features[column]}. "
            "Choose another column: --text_column_name."
        )
    if column == "label":
        raise UserError(
            f"A text column cannot be called 'label', found in {split.where}: the labels get this name. "
            "Rename the text column in the data."
        )
    check_none_missing("text", split.data[column][:], split.where)
