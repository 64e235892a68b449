"""Labels: finding their column, the label map, and their ids."""

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets import ClassLabel, LargeList, List, Value

from layer_distillation.errors import UserError
from text_data.arguments import DataArguments
from text_data.columns import NUMBER, WELL_KNOWN_LABEL_COLUMNS, check_none_missing, dtype_of, is_string
from text_data.splits import RawSplit, splits_for

logger = logging.getLogger(__name__)

INTEGER = re.compile(r"[+-]?\d+")
# GLUE marks the labels it keeps to itself by -1, and by -1.0 for the regression task.
UNKNOWN_LABELS = (None, "-1", -1.0)


@dataclass(frozen=True)
class LabelMap:
    """What the labels are and which id each name has.

    Attributes:
        problem_type: "single_label_classification", "multi_label_classification" or "regression", as in model configs.
        names: label names in the order of their ids; `("score",)` for regression.
    """

    problem_type: str
    names: tuple[str, ...]

    @property
    def num_labels(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


def find_labels(data_args: DataArguments, raw: dict[str, RawSplit]) -> tuple[str, "RawLabels", str]:
    """The label column, its values in the split that says which labels there are, and where these were found.

    The split is the training split, or where that has no labels, as the teacher's predictions are to take their place,
    the first validation split.
    """
    candidates = (data_args.label_column_name,) if data_args.label_column_name else WELL_KNOWN_LABEL_COLUMNS
    for name in ("train", *splits_for("validation", raw)):
        for column in candidates:
            labels = read_labels(raw[name], column)
            if labels is not None:
                return column, labels, raw[name].where
    raise UserError(
        f"The training data must have labels in a column {' or '.join(map(repr, candidates))}, but found none among "
        f"the columns {', '.join(raw['train'].data.column_names)}. Name it: label_column_name. Training data without "
        "labels need a validation split that has them."
    )


@dataclass(frozen=True)
class RawLabels:
    """Labels of one split by name, before they have ids.

    Attributes:
        values: per row a name, a float (regression), a list of names (multi-label), or None where it is missing.
        declared: names in the order of their ids if the column itself fixes both.
        is_vector: whether the column holds 0/1 vectors, in which the names are mere positions.
    """

    values: Sequence[str | float | list[str] | None]
    declared: tuple[str, ...] = ()
    is_vector: bool = False


def read_labels(split: RawSplit, column: str) -> RawLabels | None:
    """The labels in the column, `None` if there is no such column or every row of it is empty."""
    if column not in split.data.column_names:
        return None
    feature, values = split.data.features[column], split.data[column][:]
    if all(value in (None, "") or value != value for value in values):  # as csv's empty cells are read: "", None, NaN
        return None
    if isinstance(feature, ClassLabel):
        return RawLabels([_class_name(feature, value) for value in values], tuple(feature.names))
    if isinstance(feature, (List, LargeList)):
        return _read_label_lists(feature.feature, values, split.where)
    if is_string(feature):
        return RawLabels([value or None for value in values])  # an empty csv cell is a missing label
    dtype = dtype_of(feature)
    if dtype.startswith("float"):
        return RawLabels([None if value is None or math.isnan(value) else value for value in values])
    if dtype.startswith(("int", "uint", "bool")):
        return RawLabels([None if value is None else str(value) for value in values])
    raise UserError(
        f"Labels must be names, numbers, booleans or lists, but column {column!r} of {split.where} holds {feature}. "
        "Choose another one: label_column_name."
    )


def _read_label_lists(feature: object, rows: list[list], where: str) -> RawLabels:
    if isinstance(feature, ClassLabel):
        lists = [row if row is None else [_class_name(feature, value) for value in row] for row in rows]
        return RawLabels(lists, tuple(feature.names))
    if is_string(feature):
        return RawLabels(rows)
    lengths = {len(row) for row in rows if row is not None}
    numbers = {value for row in rows if row is not None for value in row}
    if len(lengths) > 1 or not numbers <= {0, 1}:
        raise UserError(
            f"Lists of numbers must be 0/1 vectors of one length, but the labels of {where} have the lengths "
            f"{sorted(lengths)} and values such as {list(numbers)[:5]}. Use lists of label names."
        )
    positions = tuple(str(position) for position in range(*lengths))
    lists = [row if row is None else [positions[index] for index, value in enumerate(row) if value] for row in rows]
    return RawLabels(lists, positions, is_vector=True)


def _class_name(feature: ClassLabel, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.names[value]


def build_label_map(labels: RawLabels, order: tuple[str, ...], where: str) -> LabelMap:
    """The label map of the training labels; `order` is `label_order`."""
    check_none_missing("label", labels.values, where)
    if not order and _are_scores(labels.values):
        if all(float(value).is_integer() for value in labels.values):
            logger.warning(
                f"The labels of {where} are whole numbers written as decimals, such as {labels.values[0]}. They are "
                "taken as scores, so this is a regression. If they are classes, write them as 0, 1 or as names."
            )
        return LabelMap("regression", ("score",))
    multi_label = isinstance(labels.values[0], list)
    found = labels.declared or _sorted_names(labels.values)
    if labels.is_vector and len(order) == len(found):
        found = order
    if order and set(order) != set(found):
        raise UserError(
            f"label_order must be the labels of the data, but {where} has {', '.join(found)} and label_order "
            f"{', '.join(order)}. Correct label_order, or leave it out."
        )
    if len(found) < 2:
        raise UserError(
            f"Classification needs at least two labels, but {where} has only {', '.join(found) or 'none'}. "
            "Check label_column_name."
        )
    return LabelMap("multi_label_classification" if multi_label else "single_label_classification", order or found)


def _are_scores(values: Sequence[str | float | list[str]]) -> bool:
    """Whether labels are decimal numbers. Integers are class names."""
    if not isinstance(values[0], str):
        return isinstance(values[0], float)
    return all(map(NUMBER.fullmatch, values)) and not all(map(INTEGER.fullmatch, values))


def _names_in(values: Iterable[str | float | list[str]]) -> set[str]:
    return {str(name) for value in values for name in (value if isinstance(value, list) else [value])}


def _sorted_names(values: Iterable[str | float | list[str]]) -> tuple[str, ...]:
    names = _names_in(values)
    return tuple(sorted(names, key=int if all(map(INTEGER.fullmatch, names)) else None))


def encode_labels(labels: RawLabels, label_map: LabelMap, where: str) -> list[int | float | list[float]]:
    check_none_missing("label", labels.values, where)
    multi_label = label_map.problem_type == "multi_label_classification"
    if isinstance(labels.values[0], list) != multi_label:
        raise UserError(
            f"All splits must have one kind of label, but {where} has {labels.values[0]!r} and the training data are "
            f"{label_map.problem_type}. Use lists in every split or in none."
        )
    if label_map.problem_type == "regression":
        _check_scores(labels.values, where)
        return [float(value) for value in labels.values]
    values = labels.values
    if labels.is_vector and len(labels.declared) == label_map.num_labels:
        values = [[label_map.names[int(position)] for position in value] for value in values]
    unseen = _names_in(values) - set(label_map.names)
    if unseen:
        raise UserError(
            f"Labels must occur in the training data, which have {', '.join(label_map.names)}, but {where} has also "
            f"{', '.join(sorted(unseen))}. Correct these rows or add training examples."
        )
    if multi_label:
        return [[float(name in value) for name in label_map.names] for value in values]
    return [label_map.label2id[str(value)] for value in values]


def _check_scores(values: Sequence[str | float], where: str) -> None:
    no_numbers = [value for value in values if isinstance(value, str) and not NUMBER.fullmatch(value)]
    if no_numbers:
        raise UserError(
            f"Labels must be numbers as in the training data, but {where} has {no_numbers[0]!r}. Correct these rows."
        )


def label_feature(label_map: LabelMap) -> ClassLabel | List | Value:
    if label_map.problem_type == "single_label_classification":
        return ClassLabel(names=list(label_map.names))
    if label_map.problem_type == "multi_label_classification":
        return List(Value("float32"))
    return Value("float32")
