"""The label column: which column it is, and the labels of every split by name.

    found = read_label_columns(raw, data_args)    # {"train": RawLabels, "validation": RawLabels, ...}

`labels` gives the names their ids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import ClassLabel, LargeList, List, Value

from layer_distillation.errors import UserError
from text_data.arguments import DataArguments
from text_data.columns import WELL_KNOWN_LABEL_COLUMNS, is_string
from text_data.sources import RawSplit
from text_data.splits import splits_for


@dataclass(frozen=True)
class RawLabels:
    """The labels of one split by name, before they have ids.

    Attributes:
        values: one entry a row: a name, a float (regression), a list of names (multi-label), or `None` if missing.
        declared: the names in the order of their ids, if the type of the column declares them.
        is_vector: whether the column holds 0/1 vectors; the names are then the positions "0", "1", ...
    """

    values: Sequence[str | float | list[str] | None]
    declared: tuple[str, ...] = ()
    is_vector: bool = False


def read_label_columns(raw: dict[str, RawSplit], data_args: DataArguments) -> dict[str, RawLabels]:
    """Returns the labels of every split that has some.

    Raises:
        UserError: there is no label column, a validation split has no labels, or the column holds something else.
    """
    column = _find_label_column(raw, data_args)
    found = {name: labels for name in raw if (labels := _read_labels(raw[name], column)) is not None}
    for name in splits_for("validation", raw):
        if name not in found:
            raise UserError(
                f"{raw[name].where} must have labels in the column {column!r}, but found none; the columns are "
                f"{', '.join(raw[name].data.column_names)}. Add the labels: only training and test data may lack them."
            )
    return found


def _find_label_column(raw: dict[str, RawSplit], data_args: DataArguments) -> str:
    """The first candidate that holds labels in the training split, else in a validation split."""
    candidates = (data_args.label_column_name,) if data_args.label_column_name else WELL_KNOWN_LABEL_COLUMNS
    for name in ("train", *splits_for("validation", raw)):
        for column in candidates:
            if _values(raw[name], column) is not None:
                return column
    raise UserError(
        f"The training data must have labels in a column {' or '.join(map(repr, candidates))}, but found none among "
        f"the columns {', '.join(raw['train'].data.column_names)}. Name the label column: --label_column_name. "
        "Training data without labels need a validation split that has them."
    )


def _values(split: RawSplit, column: str) -> list | None:
    """The rows of the column, `None` if there is no such column or every row is empty.

    An empty cell is read as "", `None` or NaN.
    """
    if column not in split.data.column_names:
        return None
    values = split.data[column][:]
    return None if all(value in (None, "") or value != value for value in values) else values


def _read_labels(split: RawSplit, column: str) -> RawLabels | None:
    values = _values(split, column)
    if values is None:
        return None
    feature = split.data.features[column]
    if isinstance(feature, ClassLabel):
        return RawLabels([_class_name(feature, value) for value in values], tuple(feature.names))
    if isinstance(feature, (List, LargeList)):
        return _read_lists(feature.feature, values, split.where)
    if is_string(feature):
        return RawLabels([value or None for value in values])  # an empty csv cell is a missing label
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if dtype.startswith("float"):
        return RawLabels([None if value is None or math.isnan(value) else value for value in values])
    if dtype.startswith(("int", "uint", "bool")):
        return RawLabels([None if value is None else str(value) for value in values])
    raise UserError(
        f"Labels must be names, numbers, booleans or lists, but column {column!r} of {split.where} holds {feature}. "
        "Choose another column: --label_column_name."
    )


def _read_lists(feature: object, rows: list[list | None], where: str) -> RawLabels:
    """Reads lists of class ids, lists of names, or 0/1 vectors. A list with an empty entry counts as missing."""
    if isinstance(feature, ClassLabel):
        rows = [row if row is None else [_class_name(feature, value) for value in row] for row in rows]
        return RawLabels([_complete(row) for row in rows], tuple(feature.names))
    if is_string(feature):
        return RawLabels([_complete(row) for row in rows])
    values = [value for row in rows if row is not None for value in row]
    lengths = {len(row) for row in rows if row is not None}
    others = [value for value in values if value not in (0, 1)]
    if len(lengths) > 1 or others:
        raise UserError(
            f"Lists of labels must hold names, or be 0/1 vectors of one length, but the labels of {where} have the "
            f"lengths {sorted(lengths)} and values such as {(others or values)[:5]}. Use lists of label names."
        )
    positions = tuple(str(position) for position in range(*lengths))
    lists = [row if row is None else [positions[index] for index, value in enumerate(row) if value] for row in rows]
    return RawLabels(lists, positions, is_vector=True)


def _class_name(feature: ClassLabel, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.names[value]


def _complete(names: list[str | None] | None) -> list[str] | None:
    return names if names is not None and all(names) else None
