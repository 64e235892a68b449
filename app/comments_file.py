"""Files of comments: CSV in, the same rows with labels and scores out.

comments = read_comments(content, max_characters=5_000)
text = write_scored(comments, answers, model.labels)
"""

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from app.models import Answer

TEXT_COLUMNS = ("text", "comment", "comment_text", "tweet", "sentence", "content", "review")
# A spreadsheet runs a cell that begins like this as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
DELIMITERS = ",;\t"  # spreadsheets write semicolons where the comma is the decimal point
# A name in quotation marks, which may hold delimiters and ends of lines.
QUOTED = re.compile(rf'(?:(?<=[{DELIMITERS}])|\A)"(?:[^"]|"")*"')
# Characters in which the header is looked for.
BEGINNING = 100_000


class Comments(NamedTuple):
    """A CSV file: header, rows, the number of the column with the comments (from 0), and the delimiter."""

    header: list[str]
    rows: list[list[str]]
    column: int
    delimiter: str


def find_text_column(header: Sequence[str]) -> int | None:
    """Returns the number of the column with the comments: one with a well-known name, or the only one."""
    names = [name.strip().casefold() for name in header]
    known = [names.index(name) for name in TEXT_COLUMNS if name in names]
    return known[0] if known else 0 if len(names) == 1 else None


def find_delimiter(beginning: str) -> str:
    """Returns what stands between the names in the header of a file, outside of quotation marks; else a comma.

    Args:
        beginning: of the file, the whole header and any number of rows.
    """
    header = re.split("[\r\n]", QUOTED.sub("", beginning), maxsplit=1)[0]
    return max(DELIMITERS, key=header.count)


def read_comments(content: bytes, max_characters: int) -> Comments:
    """Reads a CSV file with a header.

    The column with the comments is one with a well-known name ("text", "comment", ...), or the only one.

    Raises:
        ValueError: the file is no such CSV; the message is for the person who chose the file.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("The file is not UTF-8 text. Save it as CSV UTF-8.") from error
    if "\0" in text:
        raise ValueError("The file is not a CSV file: it holds binary data.")
    delimiter = find_delimiter(text[:BEGINNING])
    # Strict, because a quotation mark that is not closed would turn the rest of the file into one comment.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise ValueError(f"The file is not a CSV file: {error} (line {reader.line_num}).") from error
    if not rows:
        raise ValueError("The file has no comments. It needs a header line, and a line for every comment.")
    column = find_text_column(header)
    if column is None:
        raise ValueError(
            f"The file has no column named {', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}. Rename the one with "
            "the comments."
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"Row {number} has {len(row)} columns, the header has {len(header)}.")
        if len(row[column]) > max_characters:
            raise ValueError(f"The comment in row {number} is longer than {max_characters:,} characters.")
    return Comments(header, rows, column, delimiter)


def write_scored(comments: Comments, answers: Sequence[Answer | None], labels: Sequence[str]) -> str:
    """Returns the rows as CSV with further columns: `predicted_label` and a score for every label.

    Several labels of a comment are separated by semicolons; a comment may have none. The new cells are empty where
    there is no answer. No cell is left that a spreadsheet would run as a formula.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=comments.delimiter, lineterminator="\r\n")
    writer.writerow(map(_as_text, [*comments.header, "predicted_label", *(f"score_{label}" for label in labels)]))
    for row, answer in zip(comments.rows, answers, strict=True):
        scored = ["", *[""] * len(labels)]
        if answer is not None:
            scored = [_as_text(";".join(answer.labels)), *(f"{answer.scores[label]:.4f}" for label in labels)]
        writer.writerow([*map(_as_text, row), *scored])
    return stream.getvalue()


def _as_text(cell: str) -> str:
    """Returns the cell, with an apostrophe before what looks like a formula; numbers stay as they are."""
    if not cell.lstrip(" ").startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
