"""What the labels mean: the problem type, where needed from --problem_type, and the values of every split in its form.

    reading = choose_reading(found["train"], data_args, "train.csv")
    labels = reading.of(found["validation"], "validation.csv")

A column that can be read in two ways is an error that names both.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.arguments import DataArguments
from text_data.columns import NUMBER, check_none_missing
from text_data.label_columns import NAME_LISTS, NAMES, NUMBERS, SHARES, RawLabels, shares_of_lists
from text_data.names import join_names

INTEGER = re.compile(r"[+-]?\d+")
SEPARATORS = ";|,"
BRACKETS = ("[]", "()", "{}")


@dataclass(frozen=True)
class Reading:
    """How the labels of every split are read.

    Attributes:
        problem_type: one of `layer_distillation.problem_types`.
        is_soft: whether single labels are shares of the classes.
        is_number: whether classes are numbers, so that "1.0" and "1" are one class.
        separator: what joins several names in a cell, `None` for lists.
        is_listed: whether each single label stands in a list of its own, also in a cell.
    """

    problem_type: str
    is_soft: bool = False
    is_number: bool = False
    separator: str | None = None
    is_listed: bool = False

    def of(self, labels: RawLabels, where: str) -> RawLabels:
        """Returns the labels of a split in the form of the problem type.

        Regression: `NUMBERS`. Single-label: `NAMES` or `SHARES` that sum to 1. Multi-label: `NAME_LISTS` or `SHARES`.

        Raises:
            UserError: a label is missing, or cannot be read so.
        """
        _check_complete(labels, where, self.problem_type)
        if self.problem_type == MULTI_LABEL:
            return self._lists(labels, where) if labels.kind == NAMES else labels
        if self.problem_type == REGRESSION:
            return RawLabels(NUMBERS, labels.values) if labels.kind == NAMES else labels
        if self.is_listed and labels.kind in (NAMES, NAME_LISTS):
            return _names_in_lists(labels, where)
        if labels.kind == SHARES:
            return _distributions(labels, where)
        if self.is_soft and labels.kind in (NAMES, NUMBERS):
            return _soft_labels(labels, where)
        if labels.kind == NUMBERS or (labels.kind == NAMES and self.is_number):
            return RawLabels(NAMES, list(map(_class_name, labels.values)))
        return labels

    def _lists(self, labels: RawLabels, where: str) -> RawLabels:
        """Reads cells with several labels: lists as Python or json writes them, or names with a separator."""
        if self.separator is not None:
            parts = [[] if cell == "[]" else cell.split(self.separator) for cell in labels.values]
            return RawLabels(NAME_LISTS, [[name.strip() for name in cell if name.strip()] for cell in parts])
        rows = [_parse_list(cell) for cell in labels.values]
        if None in rows:
            row = rows.index(None)
            raise UserError(
                f"Every label of {where} must be a list, but row {row + 1} has {labels.values[row]!r}. Write lists "
                'such as ["a", "b"], or names with semicolons.'
            )
        if all(isinstance(value, str) for row in rows for value in row):
            return RawLabels(NAME_LISTS, rows)
        return shares_of_lists(rows, labels.column, where)


def choose_reading(labels: RawLabels, data_args: DataArguments, where: str) -> Reading:
    """Returns how the labels are read, from those of the training split.

    Raises:
        UserError: the labels can be read in two ways and no argument says in which, or not as the argument says.
    """
    stated, order = data_args.stated_problem_type, data_args.ordered_label_names
    _check_complete(labels, where, stated)
    choose = {NAMES: _for_names, NUMBERS: _for_numbers, NAME_LISTS: _for_lists, SHARES: _for_shares}[labels.kind]
    return choose(labels, stated, order, where)


def _check_complete(labels: RawLabels, where: str, problem_type: str | None) -> None:
    if labels.kind != SHARES:  # in which a label may be unknown
        none = "Write [] for a row with none of the labels" if problem_type == MULTI_LABEL else "Fill in the label"
        check_none_missing("label", labels.values, where, none)


def _for_names(labels: RawLabels, stated: str | None, order: tuple[str, ...], where: str) -> Reading:
    cells = set(labels.values)
    are_numbers = all(map(NUMBER.fullmatch, cells))
    are_booleans = {cell.lower() for cell in cells} <= {"true", "false"}
    if stated == MULTI_LABEL and (labels.declared or are_numbers or are_booleans):
        raise _one_a_row(labels, where)
    if are_numbers and not all(map(INTEGER.fullmatch, cells)):
        return _for_numbers(labels, stated, order, where)
    lists = [cell for cell in cells if _parse_list(cell)]
    if not lists and all(cell[:1] + cell[-1:] in BRACKETS for cell in cells):
        lists = list(cells)  # such as numpy's ['a' 'b']
    separator = _separator_of(cells)
    if stated == MULTI_LABEL:
        return Reading(MULTI_LABEL, separator=None if lists else separator or _semicolon(cells, where))
    if stated is not None or labels.declared or cells == set(order):
        are_names = labels.declared or cells == set(order)
        is_listed = not are_names and all(len(_parse_list(cell) or ()) == 1 for cell in cells)
        return Reading(stated or SINGLE_LABEL, is_listed=is_listed)
    if decimals := [cell for cell in cells if NUMBER.fullmatch(cell) and not INTEGER.fullmatch(cell)]:
        row, value = next((row, cell) for row, cell in enumerate(labels.values, 1) if not NUMBER.fullmatch(cell))
        raise UserError(
            f"The labels of {where} can be read in two ways: decimal numbers such as {min(decimals)} may be scores, "
            f"but row {row} has {value!r}. Correct the row, or say that all are names: --problem_type {SINGLE_LABEL}."
        )
    if lists or separator:
        cell = min(lists) if lists else min(cell for cell in cells if separator in cell)
        raise UserError(
            f"The labels of {where} can be read in two ways: a cell such as {cell!r} may be the name of one label, or "
            f"several labels. Say which: --problem_type {SINGLE_LABEL} or --problem_type {MULTI_LABEL}."
        )
    return Reading(SINGLE_LABEL)


def _one_a_row(labels: RawLabels, where: str) -> UserError:
    return UserError(
        f"--problem_type {MULTI_LABEL} needs several labels a row, but {where} has one, such as {labels.values[0]}. "
        "Name a column for each label with --label_column_name, or use lists of names."
    )


def _semicolon(cells: Iterable[str], where: str) -> str:
    """The separator where none is seen to join names that also occur alone."""
    for cell in sorted(cells):
        if ";" not in cell and ("," in cell or "|" in cell):
            raise UserError(
                f"The labels of {where} can be read in two ways: a cell such as {cell!r} may be the name of one "
                f"label, or several. Join several with semicolons, or write lists such as {json.dumps([cell])}."
            )
    return ";"


def _for_numbers(labels: RawLabels, stated: str | None, order: tuple[str, ...], where: str) -> Reading:
    is_whole = all(float(value).is_integer() for value in labels.values)
    if stated == MULTI_LABEL:
        raise _one_a_row(labels, where)
    if stated is None and is_whole and set(order) == set(map(_class_name, labels.values)):
        stated = SINGLE_LABEL
    if stated is None and is_whole:
        raise UserError(
            f"The labels of {where} can be read in two ways: whole numbers that are written as decimals, such as "
            f"{labels.values[0]}, may be classes or scores. Say which: --problem_type {SINGLE_LABEL} or "
            f"--problem_type {REGRESSION}."
        )
    is_soft = stated == SINGLE_LABEL and not is_whole
    if is_soft:
        _check_shares(labels, where)
    return Reading(stated or REGRESSION, is_soft, is_number=True)


def _for_lists(labels: RawLabels, stated: str | None, order: tuple[str, ...], where: str) -> Reading:
    if stated == REGRESSION:
        raise UserError(
            f"--problem_type {stated} needs one number a row, but {where} has lists such as {labels.values[0]!r}. "
            "Leave --problem_type out, or choose another column: --label_column_name."
        )
    if stated is None and all(len(row) == 1 for row in labels.values):
        raise _one_of_several(f"a list such as {labels.values[0]!r}", where)
    return Reading(stated or MULTI_LABEL, is_listed=stated == SINGLE_LABEL)


def _one_of_several(example: str, where: str) -> UserError:
    return UserError(
        f"The labels of {where} can be read in two ways: every row has exactly one, as in {example}, so that they may "
        f"exclude each other, or be independent. Say which: --problem_type {SINGLE_LABEL} or --problem_type "
        f"{MULTI_LABEL}."
    )


def _for_shares(labels: RawLabels, stated: str | None, order: tuple[str, ...], where: str) -> Reading:
    if stated == REGRESSION:
        raise UserError(
            f"--problem_type {REGRESSION} needs one number a row, but {where} has {labels.values.shape[1]}. Name one "
            "column: --label_column_name."
        )
    is_hard = bool(np.isin(labels.values[~np.isnan(labels.values)], (0, 1)).all())
    if stated is None and labels.has_positions and not is_hard:
        raise UserError(
            f"The labels of {where} can be read in two ways: the fractions of a list such as "
            f"{labels.values[0].tolist()} may be the shares of labels that exclude each other, or of independent "
            f"labels. Say which: --problem_type {SINGLE_LABEL} or --problem_type {MULTI_LABEL}."
        )
    if stated is None and is_hard and (labels.values.sum(axis=1) == 1).all():
        raise _one_of_several(f"{labels.values[0].tolist()} of {join_names(labels.declared)}", where)
    return Reading(stated or MULTI_LABEL, is_soft=stated == SINGLE_LABEL and not is_hard)


# ---- single labels from lists and numbers ----


def _names_in_lists(labels: RawLabels, where: str) -> RawLabels:
    rows = labels.values
    if labels.kind == NAMES:
        rows = [[cell] if (names := _parse_list(cell)) is None else names for cell in rows]
    for row, names in enumerate(rows, 1):
        if len(names) != 1:
            raise UserError(
                f"--problem_type {SINGLE_LABEL} needs one label a row, but row {row} of {where} has "
                f"{labels.values[row - 1]!r}. Correct the row, or use --problem_type {MULTI_LABEL}."
            )
    return RawLabels(NAMES, [str(name) for (name,) in rows], labels.declared, column=labels.column)


def _class_name(value: str | float) -> str:
    """The name of a class that may be written as a number: "1" for 1.0."""
    name = str(value)
    return str(int(float(name))) if NUMBER.fullmatch(name) and float(name).is_integer() else name


def _check_shares(labels: RawLabels, where: str) -> None:
    for row, value in enumerate(labels.values, 1):
        if not (NUMBER.fullmatch(str(value)) and 0 <= float(value) <= 1):
            raise UserError(
                f"Fractions as {SINGLE_LABEL} are shares from 0 to 1 of the label {labels.column!r}, but row {row} of "
                f"{where} has {value!r}. For scores use --problem_type {REGRESSION}; write classes as names."
            )


def _soft_labels(labels: RawLabels, where: str) -> RawLabels:
    """One share p of a label becomes (1 - p, p)."""
    _check_shares(labels, where)
    shares = np.array(labels.values, dtype=float)
    names = (f"not_{labels.column}", labels.column)
    return RawLabels(SHARES, np.stack([1 - shares, shares], axis=1), names, has_positions=True, column=labels.column)


def _distributions(labels: RawLabels, where: str) -> RawLabels:
    """Shares of classes, which sum to 1 but for rounding, sum to 1."""
    sums = labels.values.sum(axis=1)
    wrong = ~(np.abs(sums - 1) < 0.01)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"The shares of labels that exclude each other ({SINGLE_LABEL}) must sum to 1, but those in row {row + 1} "
            f"of {where} are {labels.values[row].tolist()}. For independent labels use --problem_type {MULTI_LABEL}."
        )
    shares = labels.values / sums[:, None]
    return RawLabels(SHARES, shares, labels.declared, labels.has_positions, labels.column)


# ---- several labels in a cell ----


def _parse_list(cell: str) -> list | None:
    """The list of names or numbers that a cell spells in json or Python, `None` for any other cell."""
    if cell[:1] + cell[-1:] not in BRACKETS:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if parse is ast.literal_eval and re.search(r"""['"]\s+['"]""", cell):  # Python joins 'a' 'b' to one string
            return None
        is_list = isinstance(value, list | tuple | set)
        kinds = {str if isinstance(item, str) else type(item) for item in value} if is_list else {None}
        return list(value) if kinds <= {str} or kinds <= {bool, int, float} else None
    return None


def _separator_of(cells: Iterable[str]) -> str | None:
    """What joins several labels in the cells: a mark that splits a cell into parts that also occur in other cells."""
    for mark in SEPARATORS:
        parts = [{part.strip() for part in cell.split(mark)} for cell in cells]
        counts = Counter(part for names in parts for part in names)
        if any(len(names) > 1 and all(counts[name] > 1 for name in names) for names in parts):
            return mark
    return None
