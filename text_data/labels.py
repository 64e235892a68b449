"""The label map: label names in the order of their ids, and the ids of every split.

    labels, ids = read_labels(raw, data_args)
    labels.names    # ("not_toxic", "toxic"): the name of id 0, of id 1
    ids["train"]    # [1, 0, 0, ...]

A wrong order of the labels, or a wrong problem type, comes from `build_label_map`.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets import ClassLabel, List, Value

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.arguments import DataArguments
from text_data.columns import NUMBER, check_none_missing
from text_data.label_columns import RawLabels, read_label_columns
from text_data.sources import RawSplit
from text_data.splits import splits_for

logger = logging.getLogger(__name__)

INTEGER = re.compile(r"[+-]?\d+")
# GLUE marks hidden labels by -1, and by -1.0 for the regression task.
UNKNOWN_LABELS = (None, "-1", -1.0)


@dataclass(frozen=True)
class LabelMap:
    """The problem type, and the id of each label name.

    Attributes:
        problem_type: one of `layer_distillation.problem_types`, as in model configs.
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

    @property
    def feature(self) -> ClassLabel | List | Value:
        """The feature type of a column of ids, 0/1 vectors or scores."""
        features = {
            SINGLE_LABEL: ClassLabel(names=list(self.names)),
            MULTI_LABEL: List(Value("float32")),
            REGRESSION: Value("float32"),
        }
        return features[self.problem_type]


def read_labels(raw: dict[str, RawSplit], data_args: DataArguments) -> tuple[LabelMap, dict[str, list]]:
    """Returns the label map, and for each split with known labels one id, 0/1 vector or score a row.

    The label map comes from the training split, or from the first validation split if the training split has no
    labels because the student learns from the teacher's predictions.

    Raises:
        UserError: the labels have no column, are missing in some rows, differ in kind between splits, or contradict
            `label_order`.
    """
    found = read_label_columns(raw, data_args)
    first = next(iter(found))
    label_map = build_label_map(found[first], data_args.ordered_label_names, raw[first].where)
    hidden = [name for name in splits_for("test", found) if _are_hidden(found[name], label_map)]
    return label_map, {
        name: _encode(labels, label_map, raw[name].where) for name, labels in found.items() if name not in hidden
    }


def build_label_map(labels: RawLabels, order: tuple[str, ...], where: str) -> LabelMap:
    """Returns the problem type and the label names in the order of their ids.

    The order is `order` (`label_order`) if given, else the order that the column declares, else sorted.
    """
    check_none_missing("label", labels.values, where)
    if not order and _are_scores(labels.values):
        if all(float(value).is_integer() for value in labels.values):
            logger.warning(
                f"The labels of {where} are whole numbers written as decimals, such as {labels.values[0]}. They are "
                "read as scores, so this is a regression. If they are classes, write them as 0, 1 or as names."
            )
        return LabelMap(REGRESSION, ("score",))
    names = labels.declared or _sorted_names(labels.values)
    if labels.is_vector and len(order) == len(names):
        names = order
    if order and set(order) != set(names):
        raise UserError(
            f"--label_order must be the labels of the data, but {where} has {', '.join(names)} and --label_order "
            f"is {', '.join(order)}. Correct --label_order, or leave it out."
        )
    if len(names) < 2:
        raise UserError(
            f"Classification needs at least two labels, but {where} has only {', '.join(names) or 'none'}. "
            "Check --label_column_name."
        )
    _warn_of_similar(names, where)
    return LabelMap(MULTI_LABEL if isinstance(labels.values[0], list) else SINGLE_LABEL, order or names)


def _are_scores(values: Sequence[str | float | list[str]]) -> bool:
    """Whether labels are decimal numbers. Integers are class names."""
    if not isinstance(values[0], str):
        return isinstance(values[0], float)
    return all(map(NUMBER.fullmatch, values)) and not all(map(INTEGER.fullmatch, values))


def _names_in(values: Iterable[str | float | list[str]]) -> set[str]:
    return {str(name) for value in values for name in (value if isinstance(value, list) else [value])}


def _sorted_names(values: Iterable[str | float | list[str]]) -> tuple[str, ...]:
    # Sorted twice: "1" and "01" have one value, and the order within a set differs between processes.
    names = sorted(_names_in(values))
    return tuple(sorted(names, key=int) if all(map(INTEGER.fullmatch, names)) else names)


def _warn_of_similar(names: tuple[str, ...], where: str) -> None:
    counts = Counter(name.strip().casefold() for name in names)
    similar = [name for name in names if counts[name.strip().casefold()] > 1]
    if similar:
        logger.warning(
            f"The labels {', '.join(map(repr, similar))} of {where} differ only in case or spaces, and each is a "
            "class. If they mean the same, write them alike in the data."
        )


def _are_hidden(labels: RawLabels, label_map: LabelMap) -> bool:
    return all(value in UNKNOWN_LABELS and value not in label_map.names for value in labels.values)


def _encode(labels: RawLabels, label_map: LabelMap, where: str) -> list[int] | list[float] | list[list[float]]:
    check_none_missing("label", labels.values, where)
    is_multi_label = label_map.problem_type == MULTI_LABEL
    if isinstance(labels.values[0], list) != is_multi_label:
        raise UserError(
            f"All splits must have one kind of label, but {where} has {labels.values[0]!r} and the training data are "
            f"{label_map.problem_type}. Use lists in every split or in none."
        )
    if label_map.problem_type == REGRESSION:
        return _as_scores(labels.values, where)
    values = labels.values
    if labels.is_vector and len(labels.declared) == label_map.num_labels:
        values = [[label_map.names[int(position)] for position in value] for value in values]
    if unseen := _names_in(values) - set(label_map.names):
        raise UserError(
            f"Labels must occur in the training data, which have {', '.join(label_map.names)}, but {where} has also "
            f"{', '.join(sorted(unseen))}. Correct these rows or add training examples."
        )
    if is_multi_label:
        return [[float(name in value) for name in label_map.names] for value in values]
    label2id = label_map.label2id
    return [label2id[str(value)] for value in values]


def _as_scores(values: Sequence[str | float], where: str) -> list[float]:
    for row, value in enumerate(values, 1):
        is_number = not isinstance(value, str) or NUMBER.fullmatch(value)
        if not is_number or not math.isfinite(float(value)):
            raise UserError(
                f"Labels must be finite numbers as in the training data, but row {row} of {where} has {value!r}. "
                "Correct the rows that have no number."
            )
    return [float(value) for value in values]
