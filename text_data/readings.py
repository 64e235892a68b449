"""What the labels mean: the problem type, where needed from --problem_type, and the values of every split in its form.

    reading = choose_reading(found, data_args, "train.csv")
    labels = reading.of(found["validation"], "validation.csv")

A column that can be read in two ways is an error that names both.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.arguments import DataArguments
from text_data.columns import DECIMAL_COMMA, NUMBER, check_none_missing, with_decimal_point
from text_data.label_columns import NAME_LISTS, NAMES, NUMBERS, SHARES, RawLabels
from text_data.label_lists import has_brackets, no_list, parse_list
from text_data.names import join_names

# Python turns no string of thousands of digits into a number.
INTEGER = re.compile(r"[+-]?\d{1,300}")
CODE = re.compile(r"[+-]?0\d+")
# Numbers of one class or of two different ones, which a number with a decimal comma looks like.
JOINED_CLASSES = re.compile(r"(0|[1-9]\d*)(,(?!\1$)(0|[1-9]\d*))?")
# A whole number, perhaps, with a comma after the thousands.
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
# Of shares that were rounded.
SUM_TOLERANCE = 0.01
# What joins names in a cell; a mark that names hold themselves the more often, the later it stands here.
SEPARATORS = ";|,"


@dataclass(frozen=True)
class Reading:
    """How the labels of every split are read.

    Attributes:
        problem_type: one of `layer_distillation.problem_types`.
        is_soft: whether single labels are shares of the classes.
        is_number: whether classes are numbers, so that "1.0", "+1" and "1" are one class.
        has_decimal_comma: whether numbers are written with a decimal comma.
        separator: what joins several names in a cell, `None` for lists.
    """

    problem_type: str
    is_soft: bool = False
    is_number: bool = False
    has_decimal_comma: bool = False
    separator: str | None = None

    def of(self, labels: RawLabels, where: str) -> RawLabels:
        """Returns the labels of a split in the form of the problem type.

        Regression: `NUMBERS`. Single-label: `NAMES` or `SHARES` that sum to 1. Multi-label: `NAME_LISTS` or `SHARES`.

        Raises:
            UserError: a label is missing, or cannot be read so.
        """
        _check_complete(labels, where, self.problem_type)
        if self.has_decimal_comma and labels.kind == NAMES:
            labels = replace(labels, values=list(map(with_decimal_point, labels.values)))
        if self.problem_type == MULTI_LABEL:
            labels = self._split(labels, where) if labels.kind == NAMES else labels
            if self.is_number and labels.kind == NAME_LISTS:
                return replace(labels, values=[list(map(_class_name, row)) for row in labels.values])
            return labels
        if labels.kind == NAME_LISTS:
            labels = _names_in_lists(labels, where)
        if self.problem_type == REGRESSION:
            return RawLabels(NUMBERS, labels.values) if labels.kind == NAMES else labels
        if labels.kind == SHARES:
            return _distributions(labels, where)
        if self.is_soft and labels.kind in (NAMES, NUMBERS):
            return _soft_labels(labels, where)
        if labels.kind == NUMBERS or self.is_number:
            return RawLabels(NAMES, list(map(_class_name, labels.values)))
        return labels

    def _split(self, labels: RawLabels, where: str) -> RawLabels:
        """Reads cells with several names."""
        if self.separator is None:
            raise no_list(labels.values[0], 1, where)
        return RawLabels(NAME_LISTS, [_parts(cell, self.separator) for cell in labels.values])


def choose_reading(found: Mapping[str, RawLabels], data_args: DataArguments, where: str) -> Reading:
    """Returns how the labels are read, from those of the first split, which `where` names.

    Raises:
        UserError: the labels can be read in two ways and no argument says in which, or not as the argument says.
    """
    stated, order = data_args.stated_problem_type, data_args.ordered_label_names
    labels = next(iter(found.values()))
    _check_complete(labels, where, stated)
    choose = {NAMES: _for_names, NUMBERS: _for_numbers, NAME_LISTS: _for_lists, SHARES: _for_shares}[labels.kind]
    reading = choose(labels, stated, order, where)
    if reading.problem_type == REGRESSION or labels.declared:
        return reading
    names = {name for split in found.values() for name in _names_as_written(split, reading.separator)}
    # Of whole numbers alone: 3.1 and 3.10 may be two versions.
    whole = {name for name in names if NUMBER.fullmatch(name) and float(name).is_integer()}
    has_repeated = len(set(map(_class_name, whole))) < len(whole) and not names <= set(order)
    return replace(reading, is_number=reading.is_number or has_repeated)


def _names_as_written(labels: RawLabels, separator: str | None) -> Iterator[str]:
    if labels.kind == SHARES:
        return
    for value in labels.values:
        if isinstance(value, list):
            yield from value
        elif isinstance(value, str) and separator is not None:
            yield from _parts(value, separator)
        elif value is not None:
            yield str(value)


def _check_complete(labels: RawLabels, where: str, problem_type: str | None) -> None:
    if labels.kind != SHARES:  # in which a label may be unknown
        none = "Write [] for a row with none of the labels" if problem_type == MULTI_LABEL else "Fill in the label"
        check_none_missing("label", labels.values, where, none)


def _for_names(labels: RawLabels, stated: str | None, order: tuple[str, ...], where: str) -> Reading:
    cells = set(labels.values)
    if stated != MULTI_LABEL and not labels.declared and cells != set(order) and _have_decimal_commas(cells):
        return _for_decimal_commas(labels, stated, order, where)
    are_numbers = all(map(NUMBER.fullmatch, cells))
    are_booleans = {cell.lower() for cell in cells} <= {"true", "false"}
    if stated == MULTI_LABEL and (labels.declared or are_numbers or are_booleans):
        raise _one_a_row(labels, where)
    if are_numbers and not all(map(INTEGER.fullmatch, cells)):
        return _for_numbers(labels, stated, order, where)
    lists = [cell for cell in cells if parse_list(cell)]
    if not lists and all(map(has_brackets, cells)):
        lists = list(cells)  # such as numpy's ['a' 'b']
    if stated == MULTI_LABEL:
        return Reading(MULTI_LABEL, separator=None if lists else _stated_separator(cells, where))
    if stated is not None or labels.declared or cells == set(order):
        return Reading(stated or SINGLE_LABEL)
    if several := lists or [cell for mark in SEPARATORS for cell in _joined(cells, mark, by_one_part=True)]:
        raise UserError(
            f"The labels of {where} can be read in two ways: a cell such as {min(several)!r} may be one label, or "
            f"several labels. Say which: --problem_type {SINGLE_LABEL} or --problem_type {MULTI_LABEL}."
        )
    if decimals := [cell for cell in cells if _is_number(cell) and not INTEGER.fullmatch(cell)]:
        row, value = next((row, cell) for row, cell in enumerate(labels.values, 1) if not _is_number(cell))
        raise UserError(
            f"The labels of {where} can be read in two ways: decimal numbers such as {min(decimals)} may be scores, "
            f"but row {row} has {value!r}. Correct the row, or say that all are names: --problem_type {SINGLE_LABEL}."
        )
    return Reading(SINGLE_LABEL)


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(with_decimal_point(cell)) is not None


def _have_decimal_commas(cells: Collection[str]) -> bool:
    return all(map(_is_number, cells)) and any(map(DECIMAL_COMMA.fullmatch, cells))


def _for_decimal_commas(labels: RawLabels, stated: str | None, order: tuple[str, ...], where: str) -> Reading:
    with_comma = list(filter(DECIMAL_COMMA.fullmatch, labels.values))
    cell = with_comma[0]
    if all(map(THOUSANDS.fullmatch, with_comma)):
        raise UserError(
            f"The labels of {where} can be read in two ways: the comma in a cell such as {cell!r} may come before "
            "decimals, or after thousands. Write thousands without a comma, and decimals with a point."
        )
    if stated is None and all(map(JOINED_CLASSES.fullmatch, labels.values)):
        raise UserError(
            f"The labels of {where} can be read in two ways: a cell such as {cell!r} may be a number with a decimal "
            f"comma, or the numbers of two classes. Say which: --problem_type {REGRESSION} or --problem_type "
            f"{MULTI_LABEL}; shares of one label are --problem_type {SINGLE_LABEL}."
        )
    with_points = replace(labels, values=list(map(with_decimal_point, labels.values)))
    return replace(_for_numbers(with_points, stated, order, where), has_decimal_comma=True)


def _one_a_row(labels: RawLabels, where: str) -> UserError:
    return UserError(
        f"--problem_type {MULTI_LABEL} needs several labels a row, but {where} has one, such as {labels.values[0]}. "
        "Name a column for each label with --label_column_name, or use lists of names."
    )


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
    have_one = all(len(row) == 1 for row in labels.values)
    if stated == REGRESSION and not have_one:
        raise UserError(
            f"--problem_type {stated} needs one number a row, but {where} has lists such as {labels.values[0]!r}. "
            "Leave --problem_type out, or choose another column: --label_column_name."
        )
    if stated is None and have_one:
        raise _one_of_several(f"a list such as {labels.values[0]!r}", where)
    return Reading(stated or MULTI_LABEL)


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
    are_exclusive = bool((np.abs(labels.values.sum(axis=1) - 1) < SUM_TOLERANCE).all())
    if stated is None and not is_hard and (labels.has_positions or are_exclusive):
        raise UserError(
            f"The labels of {where} can be read in two ways: fractions such as "
            f"{labels.values[0].tolist()} may be the shares of labels that exclude each other, or of independent "
            f"labels. Say which: --problem_type {SINGLE_LABEL} or --problem_type {MULTI_LABEL}."
        )
    if stated is None and is_hard and are_exclusive:
        raise _one_of_several(f"{labels.values[0].tolist()} of {join_names(labels.declared)}", where)
    return Reading(stated or MULTI_LABEL, is_soft=stated == SINGLE_LABEL and not is_hard)


# ---- single labels from lists and numbers ----


def _names_in_lists(labels: RawLabels, where: str) -> RawLabels:
    for row, names in enumerate(labels.values, 1):
        if len(names) != 1:
            raise UserError(
                f"Every row of {where} must have one label, but row {row} has {names!r}. Correct the row, or use "
                f"--problem_type {MULTI_LABEL}. If csv cells are names as they are, give all with --label_order."
            )
    return RawLabels(NAMES, [name for (name,) in labels.values], labels.declared, column=labels.column)


def _class_name(value: str | float) -> str:
    """The name of a class that may be written as a number: "1" for 1.0 and "+1". "01" is a code and stays."""
    name = str(value)
    if CODE.fullmatch(name):
        return name
    if INTEGER.fullmatch(name):
        return str(int(name))
    if not NUMBER.fullmatch(name):
        return name
    number = float(name)
    return str(int(number)) if number.is_integer() else str(number)


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
    wrong = ~(np.abs(sums - 1) < SUM_TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"The shares of labels that exclude each other ({SINGLE_LABEL}) must sum to 1, but those in row {row + 1} "
            f"of {where} are {labels.values[row].tolist()}. For independent labels use --problem_type {MULTI_LABEL}."
        )
    shares = labels.values / sums[:, None]
    return RawLabels(SHARES, shares, labels.declared, labels.has_positions, labels.column)


# ---- several labels in a cell ----


def _parts(cell: str, mark: str) -> list[str]:
    parts = [] if cell == "[]" else [part.strip() for part in cell.split(mark)]
    return [part for part in parts if part]


def _joined(cells: Collection[str], mark: str, by_one_part: bool = False) -> list[str]:
    """The cells that a mark splits into parts that all occur in others, or `by_one_part` of which one is a cell."""
    parts = {cell: set(_parts(cell, mark)) for cell in cells}
    counts = Counter(part for names in parts.values() for part in names)
    return [
        cell
        for cell, names in parts.items()
        if len(names) > 1
        and (all(counts[name] > 1 for name in names) or (by_one_part and not names.isdisjoint(parts)))
    ]


def _stated_separator(cells: Collection[str], where: str) -> str:
    """What joins names in cells that are said to hold several: a mark whose parts occur in others, or a semicolon.

    Raises:
        UserError: a cell may be joined by another mark.
    """
    seen = next((mark for mark in SEPARATORS if _joined(cells, mark)), None)
    separator = seen or ";"
    stronger, _, weaker = SEPARATORS.partition(separator)
    names = {name for cell in cells for name in _parts(cell, separator)}
    doubtful = [name for name in names if any(mark in name for mark in stronger)]
    if seen:
        doubtful += [name for mark in weaker for name in _joined(names, mark)]
    else:
        doubtful += [cell for cell in cells if separator not in cell and any(mark in cell for mark in weaker)]
        if not any(separator in cell for cell in cells):  # each cell would be one label, though several are said
            doubtful += _joined(cells, " ")
    if doubtful:
        raise UserError(
            f"The labels of {where} can be read in two ways: {min(doubtful)!r} may be the name of one label, or "
            f"several. Join all with semicolons, or write lists such as {json.dumps([min(doubtful)])}."
        )
    return separator
