"""Reads csv, tsv, json, jsonl and parquet files as they are."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import Dataset

from layer_distillation.errors import UserError


def read_file(path: Path) -> Dataset:
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json,
        ".parquet": _read_parquet,
    }
    try:
        return Dataset(readers[path.suffix.lower()](path))
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"A data file must be what its name says, but reading {str(path)!r} found: {error}. "
            "Text is UTF-8; every csv row has as many cells as the header, cells with commas, quotes or line breaks "
            'in "double quotes"; json is a list of objects, or one object per line.'
        ) from error


def _read_csv(path: Path) -> pa.Table:
    """All cells as they are, as strings: reading types into them turns the texts "NA" and "007" into null and 7."""
    # Tab-separated files do not quote, as GLUE's: a lone " in a text would swallow the rows up to the next one.
    is_tsv = path.suffix.lower() == ".tsv"
    tsv, csv = {"delimiter": "\t", "quote_char": False}, {"newlines_in_values": True}
    options = {
        "read_options": pa.csv.ReadOptions(use_threads=False, block_size=2**24),  # one thread: errors tell the row
        "parse_options": pa.csv.ParseOptions(**(tsv if is_tsv else csv)),
    }
    columns = pa.csv.open_csv(path, **options).schema.names
    strings = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    return pa.csv.read_csv(path, convert_options=strings, **options)


def _read_json(path: Path) -> pa.Table:
    """One list of objects, or one object per line. Arrow's own reader turns texts that look like dates into dates."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [_parse_json_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError("a row that is no object")
    columns = dict.fromkeys(column for row in rows for column in row)
    return pa.table({column: [row.get(column) for row in rows] for column in columns})


def _parse_json_line(number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"line {number}: {error}") from error


def _read_parquet(path: Path) -> pa.Table:
    table = pa.parquet.read_table(path)
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(plain, metadata=table.schema.metadata))  # categories of pandas become strings
