"""Reads csv, tsv, json, jsonl and parquet files without changing what is in them.

    read_file(Path("train.csv"))    # a Dataset

A new format is one more function from a path to an Arrow table, and one more entry in `READERS`.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import Dataset

from layer_distillation.errors import UserError
from text_data.columns import repeated


def read_file(path: Path) -> Dataset:
    """Loads a file by the reader for the ending of its name.

    Raises:
        UserError: the file is not what the ending says, or two columns have one name.
    """
    try:
        return Dataset(READERS[path.suffix.lower()](path))
    # pyarrow raises OSError and KeyError for damaged files, json RecursionError, and OverflowError is from a number
    # beyond 64 bits.
    except (ValueError, KeyError, OSError, OverflowError, RecursionError, pa.ArrowException) as error:
        raise UserError(
            f"A data file must be what its name says, but reading {str(path)!r} found: {error}. "
            "Text is UTF-8; every csv row has as many cells as the header, cells with commas, quotes or line breaks "
            'in "double quotes"; json is a list of objects, or one object per line.'
        ) from error


def _read_csv(path: Path) -> pa.Table:
    return _read_cells(path, pa.csv.ParseOptions(newlines_in_values=True))


def _read_tsv(path: Path) -> pa.Table:
    # GLUE's tab-separated files do not quote: a single " in a text would swallow the rows up to the next one.
    return _read_cells(path, pa.csv.ParseOptions(delimiter="\t", quote_char=False))


def _read_cells(path: Path, parse_options: pa.csv.ParseOptions) -> pa.Table:
    """Reads all cells as strings: with other types the texts "NA" and "007" would become null and 7."""
    options = {
        "read_options": pa.csv.ReadOptions(use_threads=False, block_size=2**24),  # one thread: errors tell the row
        "parse_options": parse_options,
    }
    columns = pa.csv.open_csv(path, **options).schema.names
    _check_columns(columns)
    strings = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    return pa.csv.read_csv(path, convert_options=strings, **options)


def _read_json(path: Path) -> pa.Table:
    """Reads one list of objects, or one object per line. Arrow's reader would turn texts like dates into dates."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [_parse_json_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row that is no object")
    columns = dict.fromkeys(column for row in rows for column in row)
    return pa.table({column: [row.get(column) for row in rows] for column in columns})


def _parse_json_line(number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from error


def _read_parquet(path: Path) -> pa.Table:
    _check_columns(pa.parquet.read_schema(path).names)
    table = pa.parquet.read_table(path)
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(plain, metadata=table.schema.metadata))  # categories of pandas become strings


def _check_columns(names: list[str]) -> None:
    if twice := repeated(names):
        raise ValueError(f"more than one column of the name {', '.join(map(repr, twice))}")


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
FILE_EXTENSIONS = tuple(READERS)
