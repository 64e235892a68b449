"""The label map: label names in the order of their ids, and the ids of every split.

    labels, ids = read_labels(raw, data_args)
    labels.names    # ("not_toxic", "toxic"): the name of id 0, of id 1
    ids["train"]    # [1, 0, 0, ...]

A wrong order of the labels comes from `build_label_map`, a wrong problem type from `readings`.
"""

import logging
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, List, Value

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.answers import hard_labels
from text_data.arguments import DataArguments
from text_data.columns import NUMBER
from text_data.label_columns import NAME_LISTS, NAMES, NUMBERS, SHARES, RawLabels, read_label_columns
from text_data.label_lists import read_lists
from text_data.names import join_names
from text_data.readings import INTEGER, Reading, choose_reading
from text_data.sources import RawSplit
from text_data.splits import splits_for

logger = logging.getLogger(__name__)

# GLUE marks hidden labels by -1, and by -1.0 for the regression task.
UNKNOWN_LABELS = (None, "-1", -1.0)


@dataclass(frozen=True)
class LabelMap:
    """The problem type, and the id of each label name.

    Attributes:
        problem_type: one of `layer_distillation.problem_types`, as in model configs.
        names: label names in the order of their ids; `("score",)` for regression.
        is_soft: whether single labels are shares of the classes, which sum to 1, in place of ids.
    """

    problem_type: str
    names: tuple[str, ...]
    is_soft: bool = False

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
        """The feature type of a column of ids, shares of the labels, or scores."""
        if self.problem_type == REGRESSION:
            return Value("float32")
        if self.problem_type == MULTI_LABEL or self.is_soft:
            return List(Value("float32"))
        return ClassLabel(names=list(self.names))


def read_labels(raw: dict[str, RawSplit], data_args: DataArguments) -> tuple[LabelMap, dict[str, list | pa.Array]]:
    """Returns the label map, and for each split with known labels one id, list of shares or score a row.

    The label map comes from the training split, or from the first validation split if the training split has no
    labels because the student learns from the teacher's predictions.

    Raises:
        UserError: the labels have no column, are missing in some rows, differ in kind between splits, can be read in
            two ways, or contradict `label_order`.
    """
    found = read_lists(read_label_columns(raw, data_args), raw, data_args)
    first = next(iter(found))
    where = raw[first].where
    reading, order = choose_reading(found, data_args, where), data_args.ordered_label_names
    known = reading.of(found[first], where)
    if reading.problem_type == MULTI_LABEL:
        _check_both_answers(known, where)
    label_map = build_label_map(known, reading, order, where)
    ids = {}
    for name, labels in found.items():
        if name not in splits_for("test", found) or not _are_hidden(labels, label_map):
            labels = reading.of(labels, raw[name].where)
            if labels.has_positions and (known.has_positions or order):
                labels = _with_names(labels, label_map, raw[name].where)
            ids[name] = _encode(labels, label_map, raw[name].where)
    return label_map, ids


def build_label_map(labels: RawLabels, reading: Reading, order: tuple[str, ...], where: str) -> LabelMap:
    """Returns the problem type and the label names in the order of their ids.

    The order is `order` (`label_order`) if given, else the order that the column declares, else sorted.
    """
    if reading.problem_type == REGRESSION:
        if order:
            raise UserError(
                f"--label_order is for classes, but the labels of {where} are scores ({REGRESSION}), such as "
                f"{labels.values[0]}. Leave it out, or say that the labels are classes: --problem_type {SINGLE_LABEL}."
            )
        return LabelMap(REGRESSION, ("score",))
    names = labels.declared or _sorted_names(_names_in(labels.values))
    if labels.has_positions and len(order) == len(names):
        names = order
    if order and set(order) != set(names):
        raise UserError(
            f"--label_order must be the labels of the data, but {where} has {join_names(names)} and --label_order "
            f"is {join_names(order)}. Leave it out, or give the names in this form: --label_order "
            f"{shlex.quote(join_names(names))}."
        )
    if len(names) < 2:
        raise UserError(
            f"Classification needs at least two labels, but {where} has only {', '.join(names) or 'none'}. "
            "Check --label_column_name."
        )
    _warn_of_similar(names, where)
    return LabelMap(reading.problem_type, order or names, reading.is_soft)


def _names_in(values: Iterable[str | list[str]]) -> set[str]:
    return {name for value in values for name in (value if isinstance(value, list) else [value])}


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    # Sorted twice: "1" and "01" have one value, and the order within a set differs between processes.
    return tuple(sorted(sorted(names), key=int) if all(map(INTEGER.fullmatch, names)) else sorted(names))


def _warn_of_similar(names: tuple[str, ...], where: str) -> None:
    keys = [str(int(name)) if INTEGER.fullmatch(name) else name.strip().casefold() for name in names]
    counts = Counter(keys)
    if similar := [name for name, key in zip(names, keys, strict=True) if counts[key] > 1]:
        logger.warning(
            f"The labels {', '.join(map(repr, similar))} of {where} differ only in case, spaces or zeros in front, "
            "and each is a class. If they mean the same, write them alike in the data."
        )


def _check_both_answers(labels: RawLabels, where: str) -> None:
    """Raises a `UserError` or warns if a label has one value in all rows where it is known: it is learned for all."""
    if labels.kind == SHARES:
        columns = dict(zip(labels.declared, labels.values.T, strict=True))
        known = {name: column[~np.isnan(column)] for name, column in columns.items()}
        with_one = [name for name, values in known.items() if len(np.unique(values)) < 2]
        for name in with_one:
            if len(known[name]) < len(columns[name]):
                found = f"{known[name][0]:g}" if len(known[name]) else "none"
                raise UserError(
                    f"A label that is unknown in some rows (an empty cell or -1) must have two values in the others, "
                    f"but {name!r} of {where} has {found} in {len(known[name])} of {len(columns[name])} rows, and "
                    "would be learned for every text. Write 0 where a text does not have it, or leave the label out."
                )
    else:  # names in lists, which are known in every row, and each occurs in one
        counts = Counter(name for row in labels.values for name in set(row))
        with_one = [name for name, count in counts.items() if count == len(labels.values)]
    if with_one:
        names = ", ".join(map(repr, sorted(with_one)))
        logger.warning(f"All rows of {where} have one value for the label {names}, which cannot be learned.")


def _are_hidden(labels: RawLabels, label_map: LabelMap) -> bool:
    if labels.kind == SHARES:
        return bool(np.isnan(labels.values).all())
    values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in labels.values]
    return all(value in UNKNOWN_LABELS and value not in label_map.names for value in values)


def _encode(labels: RawLabels, label_map: LabelMap, where: str) -> list[int] | list[float] | pa.Array:
    expected = {
        REGRESSION: (NUMBERS,),
        MULTI_LABEL: (NAME_LISTS, SHARES),
        SINGLE_LABEL: (SHARES,) if label_map.is_soft else (NAMES, SHARES),
    }[label_map.problem_type]
    if labels.kind not in expected:
        raise UserError(
            f"All splits must have one kind of label, but a row of {where} has {labels.kind}, such as "
            f"{labels.values[0]!r}, and the training data are {label_map.problem_type}. Write every split alike."
        )
    if labels.kind == NUMBERS:
        return _as_scores(labels.values, where)
    names = _names_in(labels.values) if labels.kind != SHARES else set(labels.declared)
    if unseen := names - set(label_map.names):
        raise UserError(
            f"Labels must occur in the training data, which have {', '.join(label_map.names)}, but {where} has also "
            f"{', '.join(sorted(unseen))}. Correct these rows or add training examples."
        )
    if labels.kind == NAMES:
        label2id = label_map.label2id
        return [label2id[name] for name in labels.values]
    if labels.kind == NAME_LISTS:
        return _as_lists(np.array([[name in row for name in label_map.names] for row in labels.values]))
    is_exclusive = label_map.problem_type == SINGLE_LABEL
    absent = np.full(len(labels.values), 0.0 if is_exclusive else math.nan)  # of a label that the split does not have
    columns = dict(zip(labels.declared, labels.values.T, strict=True))
    shares = np.stack([columns.get(name, absent) for name in label_map.names], axis=1)
    return hard_labels(shares, SINGLE_LABEL).tolist() if is_exclusive and not label_map.is_soft else _as_lists(shares)


def _with_names(labels: RawLabels, label_map: LabelMap, where: str) -> RawLabels:
    """Returns shares with the names of the label map for their positions."""
    if len(labels.declared) != label_map.num_labels:
        raise UserError(
            f"Lists of labels must have a number for each of {', '.join(label_map.names)}, but those of {where} have "
            f"{len(labels.declared)}, such as {labels.values[0].tolist()}. Correct the lists."
        )
    return replace(labels, declared=label_map.names)


def _as_lists(shares: np.ndarray) -> pa.Array:
    offsets = np.arange(len(shares) + 1, dtype=np.int32) * shares.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(shares.astype(np.float32).ravel()))


def _as_scores(values: Sequence[str | float], where: str) -> list[float]:
    for row, value in enumerate(values, 1):
        is_number = not isinstance(value, str) or NUMBER.fullmatch(value)
        if not is_number or not math.isfinite(float(value)):
            raise UserError(
                f"Labels must be finite numbers as in the training data, but row {row} of {where} has {value!r}. "
                "Correct the rows that have no number."
            )
    return [float(value) for value in values]
