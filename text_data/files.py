"""Reads csv, tsv, json, jsonl and parquet files without changing what is in them.

    read_file(Path("train.csv"))    # a Dataset
    category_orders(Path("train.parquet"))    # {"label": ("negative", "neutral", "positive")}

A new format is one more function from a path to an Arrow table, and one more entry in `READERS`.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import Dataset
from pyarrow import compute

from layer_distillation.errors import UserError
from text_data.columns import repeated

# Spreadsheets write semicolons where the comma is the decimal point.
OTHER_DELIMITERS = ";\t|"
# The longest row of a csv file, in bytes.
BLOCK_SIZE = 2**24
# In files whose quotes are escaped. Other backslashes are text.
ESCAPED = re.compile(rb'\\(["\\])')
# How files begin that are often saved under another ending.
BEGINNINGS = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive, which an .xlsx file is too",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1\x15": "a parquet file",
}


def read_file(path: Path, json_field: str | None = None) -> Dataset:
    """Loads a file by the reader for the ending of its name.

    Args:
        json_field: the field of a json object that holds the rows, if the file is such an object.

    Raises:
        UserError: the file is not what the ending says, or two columns have one name.
    """
    reader = READERS[path.suffix.lower()]
    arguments = {"field": json_field} if reader is _read_json else {}
    with _naming(path):
        if reader is not _read_parquet:
            _check_is_text(path)
        table = reader(path, **arguments)
        table.validate(full=True)  # strings of damaged files may be no UTF-8
        return Dataset(table)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a damaged file makes pyarrow and json raise becomes a `UserError` with the name of the file."""
    try:
        yield
    # pyarrow raises OSError, KeyError and TypeError for damaged files, json RecursionError, and OverflowError is from
    # a number beyond 64 bits.
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError, pa.ArrowException) as error:
        raise UserError(
            f"A data file must be what its name says, but reading {str(path)!r} found: {error}. "
            "Text is UTF-8; every csv row has as many cells as the header, cells with commas, quotes or line breaks "
            'in "double quotes"; json is a list of objects, or one object per line.'
        ) from error


def _check_is_text(path: Path) -> None:
    with open(path, "rb") as file:
        first = file.read(max(map(len, BEGINNINGS)))
    for beginning, kind in BEGINNINGS.items():
        if first.startswith(beginning):
            raise ValueError(f"it begins as {kind}. Write it as {path.suffix}, in UTF-8")


# ---- csv and tsv ----


def _read_csv(path: Path) -> pa.Table:
    delimiter = _delimiter(path)
    content = path.read_bytes()
    if _has_escaped_quotes(content, delimiter):
        content = _with_doubled_quotes(content, delimiter)
    return _read_cells(content, pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))


def _read_tsv(path: Path) -> pa.Table:
    content = path.read_bytes()
    # GLUE's tab-separated files do not quote: a single " in a text would swallow the rows up to the next one.
    quotes = {"newlines_in_values": True} if _is_quoted_tsv(content) else {"quote_char": False}
    return _read_cells(content, pa.csv.ParseOptions(delimiter="\t", **quotes))


def _read_cells(content: bytes, parse_options: pa.csv.ParseOptions) -> pa.Table:
    """Reads all cells as strings: with other types the texts "NA" and "007" would become null and 7."""
    # With one thread errors tell the row.
    options = {
        "read_options": pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_SIZE),
        "parse_options": parse_options,
    }
    try:
        columns = pa.csv.open_csv(pa.BufferReader(content), **options).schema.names
        _check_columns(columns)
        strings = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
        return pa.csv.read_csv(pa.BufferReader(content), convert_options=strings, **options)
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        raise ValueError(
            f"a row of more than {BLOCK_SIZE / 1e6:.0f} MB, perhaps because a quotation mark opens a cell and none "
            "closes it"
        ) from error


def _delimiter(path: Path) -> str:
    """A comma, or what separates the names of the header if commas do not."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
    for delimiter in "," + OTHER_DELIMITERS:
        if len(next(csv.reader([header], delimiter=delimiter), ())) > 1:
            return delimiter
    return ","


def _has_escaped_quotes(content: bytes, delimiter: str) -> bool:
    """Returns whether quotes in quoted cells are written \\" as by Spark and MySQL, and not doubled.

    A backslash before a quote may also be the last character of a cell, so the file must be wrong without escapes.
    """
    if b'\\"' not in content:
        return False
    return not _is_strict_csv(content, delimiter) and _is_strict_csv(content, delimiter, escapechar="\\")


def _with_doubled_quotes(content: bytes, delimiter: str) -> bytes:
    """Writes a file with escaped quotes as other csv files are: quotes doubled, and missing cells empty, not \\N."""
    unescaped = ESCAPED.sub(lambda match: match[1] * (1 + (match[1] == b'"')), content)
    around = re.escape(delimiter.encode())
    return re.sub(rb"(^|%s)\\N(?=%s|\r?$)" % (around, around), rb"\1", unescaped, flags=re.MULTILINE)


def _is_quoted_tsv(content: bytes) -> bool:
    """Returns whether the cells of a tsv file are quoted as in csv files, as pandas and R do: all names of the header,
    or the cells that need it and no others."""
    if b'"' not in content:
        return False
    text = content.decode("utf-8-sig", errors="replace")
    lines = text.splitlines()
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in lines[0].split("\t")):
        return True
    rows = _strict_rows(content, "\t")
    if rows is None:
        return False
    with_breaks = any("\t" in cell or "\n" in cell for row in rows for cell in row)
    if with_breaks and len({line.count("\t") for line in lines}) == 1:
        return False  # each line is a row where quotation marks are text
    written = io.StringIO()
    csv.writer(written, delimiter="\t", lineterminator="\r\n" if "\r\n" in text else "\n").writerows(rows)
    return written.getvalue().rstrip() == text.rstrip()


def _is_strict_csv(content: bytes, delimiter: str, **dialect) -> bool:
    return _strict_rows(content, delimiter, **dialect) is not None


def _strict_rows(content: bytes, delimiter: str, **dialect) -> list[list[str]] | None:
    """The rows of a csv file, `None` if a quoted cell is followed by other characters or has no end."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace", newline="")
    limit = csv.field_size_limit(BLOCK_SIZE)  # of the whole process; 131,072 characters where nobody has set it
    try:
        return list(csv.reader(text, delimiter=delimiter, strict=True, **dialect))
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(limit)


# ---- json and jsonl ----


def _read_json(path: Path, field: str | None = None) -> pa.Table:
    """Reads one list of objects, or one object per line. Arrow's reader would turn texts like dates into dates."""
    text = path.read_text(encoding="utf-8-sig")
    if field is not None:
        rows = _rows_in_field(_parse_json(text), field)
    elif text.lstrip().startswith("["):
        rows = _parse_json(text)
    else:
        rows = _parse_json_lines(text)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is no object but {json.dumps(row)[:50]}")
    columns = dict.fromkeys(column for row in rows for column in row)
    return pa.table({column: _json_column(column, [row.get(column) for row in rows]) for column in columns})


def _rows_in_field(document: object, field: str) -> list:
    if not isinstance(document, dict) or not isinstance(document.get(field), list):
        fields = f"an object with the fields {', '.join(document)}" if isinstance(document, dict) else "no object"
        raise ValueError(f"--json_field must name a list of rows, found {field!r}, and the file is {fields}")
    return document[field]


def _parse_json_lines(text: str) -> list:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [_parse_json(line)] if line.strip() else []
        except ValueError as error:
            _check_for_fields(text)
            raise ValueError(f"line {number}: {error}") from error
    if len(rows) == 1:
        _check_for_fields(text)
    return rows


def _parse_json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_object_of)


def _object_of(pairs: list[tuple[str, object]]) -> dict:
    """Builds an object. Readers do not agree which of two values of one name counts."""
    if twice := repeated(name for name, _ in pairs):
        raise ValueError(f"more than one value of the name {', '.join(map(repr, twice))} in one object")
    return dict(pairs)


def _check_for_fields(text: str) -> None:
    """Raises if the text is one object, of which a field holds the rows, or each field a column."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return
    fields = document.items() if isinstance(document, dict) else ()
    with_rows = [name for name, value in fields if isinstance(value, list) and value and isinstance(value[0], dict)]
    if with_rows:
        raise ValueError(
            f"one object with the fields {', '.join(document)}. If the rows are in one of them, name it: "
            f"--json_field {with_rows[0]}"
        )
    if fields and all(isinstance(value, list | dict) for _, value in fields):
        raise ValueError(
            f"one object with the fields {', '.join(document)}, which looks like columns. Write rows, as pandas does "
            'with to_json(orient="records")'
        )


def _json_column(name: str, values: list) -> pa.Array:
    """Builds a column; says which rows differ in kind."""
    kinds = [(row, value, _json_kind(value)) for row, value in enumerate(values, 1) if value is not None]
    for row, value, kind in kinds:
        first, first_value, first_kind = kinds[0]
        if kind != first_kind:
            raise ValueError(
                f"column {name!r} holds {json.dumps(first_value)[:50]} ({first_kind}) in row {first} and "
                f"{json.dumps(value)[:50]} ({kind}) in row {row}. Write every row as one kind"
            )
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r}: {error}") from error


def _json_kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")


# ---- parquet ----


def _read_parquet(path: Path) -> pa.Table:
    _check_columns(pa.parquet.read_schema(path).names)
    table = pa.parquet.read_table(path)
    plain = [field.with_type(_plain_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(plain, metadata=table.schema.metadata))


def _plain_type(dtype: pa.DataType) -> pa.DataType:
    """The type as `datasets` knows it: categories and views of strings become strings, also in lists."""
    if pa.types.is_dictionary(dtype):
        return _plain_type(dtype.value_type)
    if pa.types.is_string_view(dtype):
        return pa.large_string()
    if pa.types.is_list(dtype):
        return pa.list_(_plain_type(dtype.value_type))
    if pa.types.is_large_list(dtype):
        return pa.large_list(_plain_type(dtype.value_type))
    return dtype


def category_orders(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the categories in the order of the column's type, for every column whose type has an order.

    Such a type is a Categorical of pandas, an Enum of polars or another ordered dictionary of Arrow, also in lists,
    and an ENUM of DuckDB. Categories that polars or Arrow number as they occur have no order.
    """
    if path.suffix.lower() != ".parquet":
        return {}
    with _naming(path):
        return _orders_in_parquet(path)


def _orders_in_parquet(path: Path) -> dict[str, tuple[str, ...]]:
    file = pa.parquet.ParquetFile(path)
    fields = (file.schema_arrow.pandas_metadata or {}).get("columns", ())
    of_pandas = {field["name"] for field in fields if field["pandas_type"] == "categorical"}
    of_duckdb = _enums_of_duckdb(file.metadata)
    orders = {}
    for field in file.schema_arrow:
        dtype = _item_type(field.type)
        is_ordered = pa.types.is_dictionary(dtype) and (dtype.ordered or field.name in of_pandas)
        if is_ordered or field.name in of_duckdb:
            column = pa.parquet.read_table(path, columns=[field.name], read_dictionary=[field.name])[field.name]
            while not pa.types.is_dictionary(column.type):
                column = compute.list_flatten(column)
            if column.num_chunks:
                orders[field.name] = tuple(column.unify_dictionaries().chunk(0).dictionary.to_pylist())
    return orders


def _item_type(dtype: pa.DataType) -> pa.DataType:
    is_list = pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
    return dtype.value_type if is_list else dtype


def _enums_of_duckdb(metadata: pa.parquet.FileMetaData) -> set[str]:
    """The columns that DuckDB wrote from an ENUM, whose order the file has; the encoding is the only sign of it."""
    if not metadata.created_by.startswith("DuckDB") or not metadata.num_row_groups:
        return set()
    first = metadata.row_group(0)
    columns = [first.column(index) for index in range(first.num_columns)]
    return {
        c.path_in_schema for c in columns if c.physical_type == "BYTE_ARRAY" and c.encodings == ("RLE_DICTIONARY",)
    }


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
