"""The label columns: which columns they are, and what every split has in them.

    found = read_label_columns(raw, data_args)    # {"train": RawLabels, "validation": RawLabels, ...}

`label_lists` says what lists hold, `readings` what the values mean, and `labels` gives the names their ids.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import ClassLabel, LargeList, List, Value

from layer_distillation.errors import UserError
from text_data.arguments import DataArguments
from text_data.columns import WELL_KNOWN_LABEL_COLUMNS, is_string, with_decimal_point
from text_data.names import join_names
from text_data.sources import RawSplit
from text_data.splits import splits_for

# What one row of `RawLabels.values` holds.
NAMES = "a name"
NUMBERS = "a number"
LISTS = "a list"
NAME_LISTS = "a list of names"
SHARES = "a share of each label"


@dataclass(frozen=True)
class RawLabels:
    """The labels of one split as its columns hold them.

    Attributes:
        kind: what one row holds: `NAMES`, `NUMBERS`, `LISTS` or `SHARES`; `label_lists` makes `NAME_LISTS`, `NUMBERS`
            or `SHARES` of `LISTS`.
        values: one entry a row: a name, a float, a list of names or numbers, or `None` if missing. For `SHARES` an
            array of shape (rows, labels) with numbers from 0 to 1, and NaN where a label is unknown.
        declared: the names in the order of their ids, if the type of the column declares them; of `SHARES` always.
        has_positions: whether the names of `SHARES` are not in the data, so that `label_order` may replace them.
        column: name of the label column.
    """

    kind: str
    values: list | np.ndarray
    declared: tuple[str, ...] = ()
    has_positions: bool = False
    column: str = ""


def read_label_columns(raw: dict[str, RawSplit], data_args: DataArguments) -> dict[str, RawLabels]:
    """Returns the labels of every split that has some.

    Raises:
        UserError: there is no label column, a validation split has no labels, or a column holds something else.
    """
    columns = _find_label_columns(raw, data_args)
    found = {name: labels for name, split in raw.items() if (labels := _read_labels(split, columns)) is not None}
    for name in splits_for("validation", raw):
        if name not in found:
            raise UserError(
                f"{raw[name].where} must have labels in the column {', '.join(map(repr, columns))}, but found none; "
                f"the columns are {join_names(raw[name].data.column_names, ', ')}. Add the labels: only training and "
                "test data may lack them."
            )
    return found


def _find_label_columns(raw: dict[str, RawSplit], data_args: DataArguments) -> tuple[str, ...]:
    """The named columns, else the first well-known one that holds labels in the training or a validation split."""
    named = data_args.label_columns
    candidates = [named] if named else [(column,) for column in WELL_KNOWN_LABEL_COLUMNS]
    for name in ("train", *splits_for("validation", raw)):
        for columns in candidates:
            if any(_values(raw[name], column) is not None for column in columns):
                return columns
    wanted = " and ".join(map(repr, named)) or " or ".join(map(repr, WELL_KNOWN_LABEL_COLUMNS))
    raise UserError(
        f"The training data {raw['train'].where} must have labels in a column {wanted}, but found none among "
        f"the columns {join_names(raw['train'].data.column_names, ', ')}. Name the label column: --label_column_name. "
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


def _read_labels(split: RawSplit, columns: tuple[str, ...]) -> RawLabels | None:
    if len(columns) == 1:
        return _read_column(split, *columns)
    missing = [column for column in columns if column not in split.data.column_names]
    if len(missing) == len(columns):
        return None
    if missing:
        raise UserError(
            f"{split.where} must have a column for each label of --label_column_name, but has no "
            f"{', '.join(map(repr, missing))}; the columns are {join_names(split.data.column_names, ', ')}."
        )
    return _read_shares(split, {column: _arrow_column(split, column) for column in columns})


def _read_column(split: RawSplit, column: str) -> RawLabels | None:
    values = _values(split, column)
    if values is None:
        return None
    feature = split.data.features[column]
    if isinstance(feature, (List, LargeList)):
        return _read_lists(feature.feature, values, split, column)
    if isinstance(feature, dict):
        struct = _arrow_column(split, column)
        return _read_shares(split, {name: pa.compute.struct_field(struct, [name]) for name in feature})
    return _read_single(feature, values, split, column)


def _read_single(feature: object, values: list, split: RawSplit, column: str) -> RawLabels:
    """Reads one value a row: the id of a declared class, a name, a number or a boolean."""
    order = split.orders.get(column, ())
    if isinstance(feature, ClassLabel):
        return RawLabels(NAMES, [_class_name(feature, value) for value in values], tuple(feature.names), column=column)
    if is_string(feature):
        names = [value or None for value in values]  # an empty csv cell is a missing label
        return RawLabels(NAMES, names, order, column=column)
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if dtype.startswith("decimal") and all(value is None or value == int(value) for value in values):
        values, dtype = [None if value is None else int(value) for value in values], "int"
    if dtype.startswith(("float", "decimal")):
        numbers = [None if value is None or math.isnan(value) else float(value) for value in values]
        return RawLabels(NUMBERS, numbers, column=column)
    if dtype.startswith(("int", "uint", "bool")):
        return RawLabels(NAMES, [None if value is None else str(value) for value in values], order, column=column)
    raise UserError(
        f"Labels must be names, numbers, booleans or lists, but column {column!r} of {split.where} holds {feature}. "
        "Choose another column: --label_column_name."
    )


def _read_lists(feature: object, rows: list[list | None], split: RawSplit, column: str) -> RawLabels:
    """Reads lists of class ids, names or numbers; class ids become names."""
    order = split.orders.get(column, ())
    if isinstance(feature, ClassLabel):
        rows = [row if row is None else [_class_name(feature, value) for value in row] for row in rows]
        order = tuple(feature.names)
    return RawLabels(LISTS, rows, order, column=column)


def _class_name(feature: ClassLabel, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.names[value]


# ---- shares: one number a label ----


def _read_shares(split: RawSplit, columns: Mapping[str, pa.Array]) -> RawLabels | None:
    """Reads a column for each label; `None` if no label is known."""
    shares = np.empty((len(split.data), len(columns)))
    for index, (name, column) in enumerate(columns.items()):
        if pa.types.is_nested(column.type):
            raise UserError(
                f"A column of one label must hold 0 and 1, booleans or shares from 0 to 1, but column {name!r} of "
                f"{split.where} holds {column.type}. Name other columns: --label_column_name."
            )
        encoded = column.dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        distinct = encoded.dictionary.to_pylist()
        numbers = [share_of(value) for value in distinct]
        codes = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        if None in numbers:
            value = distinct[numbers.index(None)]
            row = int(np.argmax(codes == numbers.index(None))) + 1
            raise UserError(
                f"A column of one label must hold 0 and 1, booleans or shares from 0 to 1, but row {row} of column "
                f"{name!r} of {split.where} holds {value!r}. Correct the row, or name other columns: "
                "--label_column_name."
            )
        shares[:, index] = np.array([*numbers, math.nan])[codes]
    return None if np.isnan(shares).all() else RawLabels(SHARES, shares, tuple(columns), column=", ".join(columns))


def _arrow_column(split: RawSplit, column: str) -> pa.Array | pa.ChunkedArray:
    return split.data.with_format("arrow")[column][:]


def share_of(value: object) -> float | None:
    """The number from 0 to 1 that a value stands for, NaN if the label is unknown, `None` for any other value."""
    if isinstance(value, str):
        value = {"": math.nan, "true": 1, "false": 0}.get(value.strip().lower(), with_decimal_point(value))
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return None
    # -1 marks what is unknown in GLUE and in the test labels of Jigsaw.
    return math.nan if number == -1 or math.isnan(number) else number if 0 <= number <= 1 else None
