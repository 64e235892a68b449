"""Lists of labels, in columns of lists and in csv cells that spell lists: what they hold, decided once for all splits.

    found = read_lists(read_label_columns(raw, data_args), raw, data_args)

Numbers in lists are the numbers of classes where every list has one whole number, or where the lists differ in length
and a number is larger than any share. Otherwise each is the share of the label at its place.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from text_data.arguments import DataArguments
from text_data.label_columns import LISTS, NAME_LISTS, NAMES, NUMBERS, SHARES, RawLabels, share_of
from text_data.sources import RawSplit

BRACKETS = ("[]", "()", "{}")


def read_lists(
    found: Mapping[str, RawLabels], raw: Mapping[str, RawSplit], data_args: DataArguments
) -> dict[str, RawLabels]:
    """Returns the labels with `NAME_LISTS`, `NUMBERS` or `SHARES` in place of `LISTS`, in all splits the same.

    Cells that spell lists become lists where the problem type is stated and `label_order` does not name the cells.

    Raises:
        UserError: lists of numbers differ in length, or hold neither numbers of classes nor shares; or a cell is no
            list where others are.
    """
    first = next(iter(found.values()))
    found = dict(found)
    if first.kind == LISTS or _cells_are_lists(first, data_args):
        for name, labels in found.items():
            if labels.kind == NAMES and _spells_lists(labels):
                rows = _lists_in_cells(labels, raw[name].where, data_args.stated_problem_type)
                found[name] = replace(labels, kind=LISTS, values=rows)
    lists = {name: labels for name, labels in found.items() if labels.kind == LISTS}
    if not lists:
        return found
    rows = _with_unknown([row for labels in lists.values() for row in labels.values])
    kind, values = _what_lists_hold(rows, " and ".join(dict.fromkeys(raw[name].where for name in lists)))
    positions = tuple(map(str, range(values.shape[1]))) if kind == SHARES else ()
    for name, labels in lists.items():
        own, values = values[: len(labels.values)], values[len(labels.values) :]
        found[name] = RawLabels(kind, own, positions or labels.declared, kind == SHARES, labels.column)
    return found


def parse_list(cell: str) -> list | None:
    """The list of names or numbers that a cell spells in json or Python, `None` for any other cell."""
    if not has_brackets(cell):
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


def has_brackets(cell: str) -> bool:
    """Whether a cell looks like a list."""
    return cell[:1] + cell[-1:] in BRACKETS


# ---- lists in csv cells ----


def _cells_are_lists(labels: RawLabels, data_args: DataArguments) -> bool:
    stated = data_args.stated_problem_type
    if labels.kind != NAMES or labels.declared or stated is None:
        return False
    are_names = stated != MULTI_LABEL and set(labels.values) == set(data_args.ordered_label_names)
    return not are_names and _spells_lists(labels)


def _spells_lists(labels: RawLabels) -> bool:
    return any(parse_list(cell) for cell in set(labels.values) - {None})


def _lists_in_cells(labels: RawLabels, where: str, stated: str | None) -> list[list | None]:
    """Reads the cells. A name beside lists is one label."""
    rows = [None if cell is None else parse_list(cell) for cell in labels.values]
    for index, (cell, row) in enumerate(zip(labels.values, rows, strict=True)):
        if row is None and cell is not None:
            if stated != SINGLE_LABEL or has_brackets(cell):
                raise no_list(cell, index + 1, where)
            rows[index] = [cell]
    return rows


def no_list(cell: str, row: int, where: str) -> UserError:
    """Returns the error of a cell that is no list where others are."""
    return UserError(
        f"Every label of {where} must be a list, but row {row} has {cell!r}. Write lists such as "
        '["a", "b"], or names with semicolons.'
    )


# ---- what lists hold ----


def _with_unknown(rows: list[list | None]) -> list[list | None]:
    """Puts `None` for lists of -1, which marks what is unknown. Where every list has one number, it may be a class."""
    if all(row is None or len(row) == 1 for row in rows):
        return rows
    return [None if row and all(value == -1 for value in row) else row for row in rows]


def _what_lists_hold(rows: Sequence[list | None], where: str) -> tuple[str, list | np.ndarray]:
    """Returns the kind, `NAME_LISTS`, `NUMBERS` or `SHARES`, and the values of all rows in its form."""
    known = [row for row in rows if row is not None]
    values, lengths = [value for row in known for value in row], {len(row) for row in known}
    have_one = lengths == {1}
    is_whole = all(isinstance(value, int) for value in values)
    are_classes = is_whole and (have_one or (len(lengths) > 1 and min(values) >= 0 and max(values) > 1))
    if not known or are_classes or any(isinstance(value, str) for value in values):
        return NAME_LISTS, [_names(row) for row in rows]
    if have_one and all(isinstance(value, int | float | Decimal | None) for value in values):
        return NUMBERS, [None if row is None else _number(*row) for row in rows]
    others = [value for value in values if share_of(value) is None]
    if len(lengths) != 1 or lengths == {0} or others:
        raise UserError(
            f"Lists of labels must hold names, or one number from 0 to 1 for each label, but the labels of {where} "
            f"have the lengths {sorted(lengths)} and values such as {(others or values)[:5]}. Use lists of names."
        )
    (length,) = lengths
    unknown = [math.nan] * length
    return SHARES, np.array([unknown if row is None else list(map(share_of, row)) for row in rows])


def _names(row: list | None) -> list[str] | None:
    """The names in a list; a list in which one is missing is missing as a whole."""
    return None if row is None or any(value in (None, "") for value in row) else list(map(str, row))


def _number(value: float | Decimal | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
