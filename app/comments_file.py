"""Files of comments: CSV in, the same rows with labels and scores out."""

import csv
import io
from collections.abc import Sequence

from app.models import Answer

TEXT_COLUMNS = ("text", "comment", "comment_text", "tweet", "sentence", "content", "review")
# A spreadsheet takes a cell that begins like this for a formula, and would run it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def read_comments(content: bytes, max_characters: int) -> tuple[list[str], list[list[str]], int]:
    """Reads a CSV file with a header.

    Returns:
        The header, the rows, and the index of the column with the comments: one with a well-known name ("text",
        "comment", ...), or the only one.

    Raises:
        ValueError: the file is no such CSV; the message is for the person who chose it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("The file is not UTF-8 text. Save it as CSV UTF-8.") from error
    if "\0" in text:
        raise ValueError("The file is not a CSV file: it holds binary data.")
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row] or [[]]
    except csv.Error as error:
        raise ValueError(f"The file is not a CSV file: {error}.") from error
    if not rows:
        raise ValueError("The file has no comments. It needs a header line, and a line for every comment.")
    names = [name.strip().casefold() for name in header]
    found = [names.index(name) for name in TEXT_COLUMNS if name in names] or ([0] if len(names) == 1 else [])
    if not found:
        raise ValueError(
            f"The file has no column named {', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}. Rename the one with "
            "the comments."
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"Row {number} has {len(row)} columns, the header has {len(header)}.")
        if len(row[found[0]]) > max_characters:
            raise ValueError(f"The comment in row {number} is longer than {max_characters:,} characters.")
    return header, rows, found[0]


def write_scored(
    header: Sequence[str], rows: Sequence[Sequence[str]], answers: Sequence[Answer | None], labels: Sequence[str]
) -> str:
    """The rows as CSV with further columns: `predicted_label` and a score for every label, empty where there is no
    answer. No cell is left that a spreadsheet would take for a formula."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(map(_as_text, [*header, "predicted_label", *(f"score_{label}" for label in labels)]))
    for row, answer in zip(rows, answers, strict=True):
        scored = ["", *[""] * len(labels)]
        if answer is not None:
            scored = [_as_text(answer.label), *(f"{answer.scores[label]:.4f}" for label in labels)]
        writer.writerow([*map(_as_text, row), *scored])
    return stream.getvalue()


def _as_text(cell: str) -> str:
    """The cell, with an apostrophe before what looks like a formula; numbers stay."""
    if not cell.lstrip(" ").startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
