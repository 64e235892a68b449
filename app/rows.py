"""Files of comments larger than memory: rows in from csv, jsonl, parquet and the Hub, rows out to files.

source = open_source("comments.parquet")
write_rows(Path("scored.csv"), [{"text": "I hate you", "score_toxic": 0.9}], schema=None)
join_files([Path("part-0.csv"), Path("part-1.csv")], Path("scored.csv"))

csv and jsonl need nothing else; parquet needs pyarrow, and the Hub needs datasets.
"""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from app.comments_file import DELIMITERS

FORMATS = (".csv", ".jsonl", ".parquet")
ROWS_AT_A_TIME = 1_000


@dataclass(frozen=True)
class Source:
    """Rows that are read as they are asked for.

    Attributes:
        rows: dictionaries by column.
        columns: names of the columns, as far as the first row has them.
        total: number of rows, `None` if only reading tells.
        schema: types of the columns for parquet files, `None` if the rows tell.
    """

    rows: Iterator[dict]
    columns: tuple[str, ...]
    total: int | None = None
    schema: "pyarrow.Schema | None" = None  # noqa: F821, imported where it is needed


def open_source(name: str, split: str = "train") -> Source:
    """Opens a file by its ending, or a data set of the Hub.

    Raises:
        ValueError: there is no such file, or it is empty.
    """
    path = Path(name)
    if path.suffix not in FORMATS:
        return _open_hub(name, split)
    if not path.is_file():
        raise ValueError(f"There is no file {name}. Check the path.")
    if path.suffix == ".parquet":
        return _open_parquet(path)
    return _with_columns(_read_csv(path) if path.suffix == ".csv" else _read_jsonl(path), name)


def _with_columns(rows: Iterator[dict], name: str) -> Source:
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{name} has no rows.")
    return Source(chain([first], rows), tuple(first))


def _read_csv(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        first_line = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(DELIMITERS, key=first_line.count), strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise ValueError(f"{path} names a column twice: {', '.join(header)}. Rename one of them.")
            for row in reader:
                if len(row) not in (0, len(header)):
                    raise ValueError(
                        f"Line {reader.line_num} of {path} has {len(row)} columns, the header has {len(header)}."
                    )
                if row:
                    yield dict(zip(header, row, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no CSV file in UTF-8: {error} (line {reader.line_num}).") from error


def _read_jsonl(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                row = _parsed(line)
                if not isinstance(row, dict):
                    raise ValueError(f"Line {number} of {path} is no JSON object.")
                yield row


def _parsed(line: str):
    try:
        return json.loads(line)
    except ValueError:
        return None


def _open_parquet(path: Path) -> Source:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    rows = (row for batch in file.iter_batches(ROWS_AT_A_TIME) for row in batch.to_pylist())
    return Source(rows, tuple(file.schema_arrow.names), file.metadata.num_rows, file.schema_arrow)


def with_columns(schema: "pyarrow.Schema | None", types: dict[str, str]) -> "pyarrow.Schema | None":  # noqa: F821
    """Returns a schema with further columns of these types of pyarrow, `None` for `None`."""
    if schema is None:
        return None
    import pyarrow

    for name, kind in types.items():
        schema = schema.append(pyarrow.field(name, pyarrow.type_for_alias(kind)))
    return schema


def _open_hub(name: str, split: str) -> Source:
    from datasets import load_dataset

    dataset = load_dataset(name, split=split, streaming=True)
    return _with_columns(iter(dataset), name)


def write_rows(file: Path, rows: Sequence[dict], schema: "pyarrow.Schema | None") -> None:  # noqa: F821
    """Writes rows with the same columns to a file whose ending says the format.

    Args:
        schema: for parquet; `None`: as the rows tell.

    Raises:
        ValueError: a row does not fit the schema.
    """
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file)
        return
    with open(file, "w", encoding="utf-8", newline="") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def join_files(parts: Iterable[Path], target: Path) -> None:
    """Writes parts with the same columns as one file, a part in memory at a time."""
    if target.suffix == ".parquet":
        _join_parquet(parts, target)
        return
    with open(target, "w", encoding="utf-8", newline="") as stream:
        for number, part in enumerate(parts):
            with open(part, encoding="utf-8", newline="") as content:
                if number and target.suffix == ".csv":
                    next(csv.reader(content))  # the header, which may have line breaks in it
                shutil.copyfileobj(content, stream)


def _join_parquet(parts: Iterable[Path], target: Path) -> None:
    import pyarrow.parquet

    parts = list(parts)
    with pyarrow.parquet.ParquetWriter(target, pyarrow.parquet.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pyarrow.parquet.read_table(part, schema=writer.schema))
