"""What a column holds: its type, and rows without a value. `texts` and `labels` share these checks."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from datasets import Value

from layer_distillation.errors import UserError

WELL_KNOWN_LABEL_COLUMNS = ("label", "labels")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def with_decimal_point(cell: str) -> str:
    """Writes a number that has a decimal comma, perhaps between spaces, with a point. Other texts stay as they are."""
    return cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell.strip()) else cell


def is_string(feature: object) -> bool:
    """Whether a column of this feature type holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def check_none_missing(what: str, values: Sequence, where: str, fix: str | None = None) -> None:
    """Raises a `UserError` with the rows whose value is `None`. `what` is "text" or "label", `where` the split."""
    missing = [row for row, value in enumerate(values, 1) if value is None]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"Every row must have a {what}, but in {where} {len(missing)} of {len(values)} rows have none: "
            f"row {shown} (counted from 1, without a header). {fix or f'Fill in the {what}'}, or remove the rows."
        )


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
