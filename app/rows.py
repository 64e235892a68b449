"""Files of comments larger than memory: rows in from csv, jsonl, parquet and the Hub, rows out to files.

source = open_source("comments.parquet")
columns = source.columns | {"score_toxic": "double"}
write_rows(Path("part-0.csv"), [{"text": "I hate you", "score_toxic": 0.9}], columns)
join_files([Path("part-0.csv"), Path("part-1.csv")], Path("scored.csv"))

csv and jsonl need nothing else; parquet needs pyarrow, and the Hub needs datasets.
"""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from app.comments_file import BEGINNING, find_delimiter

FORMATS = (".csv", ".jsonl", ".parquet")
ROWS_AT_A_TIME = 1_000
READ_BYTES = 1_000_000
PARTS_A_ROW_GROUP = 5
MAX_CELL_CHARACTERS = 2**31 - 1  # the largest that the csv module takes on every system

# Types of pyarrow, or their names, by column; `None` where the rows tell. Only parquet needs them.
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Rows that are read as they are asked for.

    Attributes:
        rows: dictionaries with all of the columns, in their order.
        columns: none if the source is empty and has no header.
        total: number of rows, `None` if only reading tells.
    """

    rows: Iterator[dict]
    columns: Columns
    total: int | None = None


def ending(path: Path) -> str:
    """Returns the ending of a file's name in lower case."""
    return path.suffix.lower()


def open_source(name: str, split: str = "train") -> Source:
    """Opens a file by its ending, or a data set of the Hub.

    Reading the rows raises `ValueError` for a row with other columns than the first one.

    Raises:
        ValueError: there is no such file, or it has another ending.
        ModuleNotFoundError: the format needs a package that is not installed.
    """
    path = Path(name)
    if ending(path) not in FORMATS:
        if path.is_file():
            raise ValueError(f"The input must end in {', '.join(FORMATS)}, found {name}. Convert the file.")
        return _open_hub(name, split)
    if not path.is_file():
        raise ValueError(f"There is no file {name}. Check the path.")
    if ending(path) == ".parquet":
        return _open_parquet(path)
    return _open_csv(path) if ending(path) == ".csv" else _with_columns(_read_jsonl(path), name)


def _with_columns(rows: Iterator[dict], name: str) -> Source:
    """Returns a source with the columns of the first row."""
    first = next(rows, None)
    if first is None:
        return Source(rows, {})
    return Source(_in_order(chain([first], rows), tuple(first), name), dict.fromkeys(first))


def _in_order(rows: Iterable[dict], columns: Sequence[str], name: str) -> Iterator[dict]:
    for number, row in enumerate(rows, 1):
        if different := sorted(row.keys() ^ set(columns)):
            raise ValueError(
                f"Row {number} of {name} must have the columns of the first one, {', '.join(columns)}, but only one "
                f"of the two has {', '.join(different)}. Give each row all columns, with null where there is nothing."
            )
        yield {column: row[column] for column in columns}


def _open_csv(path: Path) -> Source:
    lines = _read_csv(path)
    header = next(lines, [])
    return Source((dict(zip(header, line, strict=True)) for line in lines), dict.fromkeys(header, "string"))


def _read_csv(path: Path) -> Iterator[list[str]]:
    """Returns the header, then the rows."""
    limit = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = find_delimiter(file.read(BEGINNING))
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            _check_names(header, path)
            yield header
            for row in reader:
                if len(row) not in (0, len(header)):
                    raise ValueError(
                        f"Line {reader.line_num} of {path} has {len(row)} columns, the header has {len(header)}."
                    )
                if row:
                    yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8: {error}. Correct the file.") from error
    finally:
        csv.field_size_limit(limit)


def _check_names(columns: Sequence[str], path: Path) -> None:
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path} names a column twice: {', '.join(columns)}. Rename one of them.")


def _read_jsonl(path: Path) -> Iterator[dict]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    row = _parsed(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"Line {number} of {path} is no JSON object.")
                    yield row
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be in UTF-8: {error}. Convert the file.") from error


def _parsed(line: str):
    try:
        row = json.loads(line)
        # An escape may stand for half a surrogate pair, which is no text and cannot be written.
        return json.loads(json.dumps(row, ensure_ascii=False).encode(errors="replace")) if "\\u" in line else row
    except ValueError:
        return None


def _open_parquet(path: Path) -> Source:
    import pyarrow.parquet

    # By default the columns of a whole group of rows are read at once, and many files have one group only.
    file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
    _check_names(file.schema_arrow.names, path)
    rows = (row for batch in file.iter_batches(ROWS_AT_A_TIME) for row in batch.to_pylist())
    return Source(rows, {field.name: field.type for field in file.schema_arrow}, file.metadata.num_rows)


def _open_hub(name: str, split: str) -> Source:
    from datasets import load_dataset

    dataset = load_dataset(name, split=split, streaming=True)
    return _with_columns(iter(dataset), name)


def write_rows(file: Path, rows: Sequence[dict], columns: Columns) -> None:
    """Writes rows, or none, with these columns to a file whose ending says the format.

    Raises:
        ValueError: the values of a column do not fit its type, or have no common one.
        ModuleNotFoundError: the format needs a package that is not installed.
    """
    if ending(file) == ".parquet":
        _write_parquet(file, rows, columns)
        return
    with open(file, "w", encoding="utf-8", newline="") as stream:
        if ending(file) == ".csv":
            writer = csv.DictWriter(stream, list(columns))
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _write_parquet(file: Path, rows: Sequence[dict], columns: Columns) -> None:
    import pyarrow
    import pyarrow.parquet

    arrays = []
    for name, kind in columns.items():
        try:
            arrays.append(pyarrow.array([row[name] for row in rows], kind))
        except (pyarrow.ArrowException, OverflowError) as error:
            raise ValueError(
                f"The column {name} must have values of one type for parquet: {error}. Choose an --output that ends "
                "in .jsonl."
            ) from error
    pyarrow.parquet.write_table(pyarrow.table(arrays, list(columns)), file)


def join_files(parts: Iterable[Path], target: Path) -> None:
    """Writes parts with the same columns as one file, a few parts in memory at a time.

    Raises:
        ValueError: a column of parquet has types in different parts that have no common one.
    """
    if ending(target) == ".parquet":
        _join_parquet(list(parts), target)
        return
    with open(target, "w", encoding="utf-8", newline="") as stream:
        for number, part in enumerate(parts):
            with open(part, encoding="utf-8", newline="") as content:
                if number and ending(target) == ".csv":
                    next(csv.reader(content))  # the header, which may have line breaks in it
                shutil.copyfileobj(content, stream)


def _join_parquet(parts: Sequence[Path], target: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        # What has been null, or whole numbers, in one part may be text, or decimals, in another.
        schema = pyarrow.unify_schemas(map(pyarrow.parquet.read_schema, parts), promote_options="permissive")
        with pyarrow.parquet.ParquetWriter(target, schema) as writer:
            for start in range(0, len(parts), PARTS_A_ROW_GROUP):
                tables = []
                for part in parts[start : start + PARTS_A_ROW_GROUP]:
                    with pyarrow.parquet.ParquetFile(part) as content:
                        tables.append(content.read(use_threads=False).cast(schema))
                writer.write_table(pyarrow.concat_tables(tables))
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"A column must have values of one type for parquet: {error}. Choose an --output that ends in .jsonl."
        ) from error
