"""Made-up files of labeled texts, many of them damaged, for the fuzz of the data reader.

case = make_case(17, folder, seed=1)    # writes folder/17.csv, or another format
case.kind, case.fault                   # "joined names", "cut"
"""

import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")
WORDS = (
    "fine",
    "NA",
    "null",
    "007",
    "1e5",
    "2020-01-01",
    'say "hi"',
    "a, b",
    "c; d",
    "café 💬",
    " padded ",
    "",
    "'",
    "{}",
)
NAMES = (
    "toxic",
    "not toxic",
    "praise, thanks",
    "NA",
    "None",
    "é",
    'the "so-called"',
    "[deleted]",
    "a;b",
    "1st",
    "-",
    "True",
)


@dataclass(frozen=True)
class Kind:
    """A kind of label.

    Attributes:
        make: the label of one row.
        problem_type: how it is read without --problem_type; `None` if that is open, which must be an error.
        formats: in which it can be written.
        read_as: the problem types that may be stated.
    """

    make: Callable[[random.Random], object]
    problem_type: str | None
    read_as: tuple[str, ...]
    formats: tuple[str, ...] = FORMATS


def _subset(rng: random.Random, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if rng.random() < 0.5]


TYPED, JSON, CELLS = ("jsonl", "json", "parquet"), ("jsonl", "json"), ("csv", "tsv")
KINDS = {
    "names": Kind(lambda r: r.choice(("toxic", "fine", "é", "NA", "1st")), SINGLE_LABEL, (SINGLE_LABEL, MULTI_LABEL)),
    "odd names": Kind(lambda r: r.choice(NAMES), SINGLE_LABEL, (SINGLE_LABEL,)),
    "whole numbers": Kind(lambda r: r.choice((-1, 0, 2, 10)), SINGLE_LABEL, (SINGLE_LABEL, REGRESSION)),
    "numbers as text": Kind(lambda r: r.choice(("01", "1", "10", "9")), SINGLE_LABEL, (SINGLE_LABEL, REGRESSION)),
    "booleans": Kind(lambda r: r.random() < 0.5, SINGLE_LABEL, (SINGLE_LABEL,)),
    "whole decimals": Kind(lambda r: float(r.randrange(4)), None, (SINGLE_LABEL, REGRESSION)),
    "fractions": Kind(lambda r: r.choice((0.125, 2.5, -3.75, 7.0)), REGRESSION, (REGRESSION,)),
    "shares": Kind(lambda r: r.choice((0.0, 0.25, 0.5, 1.0)), REGRESSION, (REGRESSION, SINGLE_LABEL)),
    "lists of names": Kind(lambda r: _subset(r, ("rude", "a, b", "é")), MULTI_LABEL, (MULTI_LABEL,), TYPED),
    "lists of one name": Kind(lambda r: [r.choice(("rude", "a, b", "é"))], None, (SINGLE_LABEL, MULTI_LABEL), TYPED),
    "lists of one number": Kind(
        lambda r: [r.choice((0, 2, 10))], None, (SINGLE_LABEL, MULTI_LABEL, REGRESSION), TYPED
    ),
    "vectors": Kind(lambda r: [r.randrange(2) for _ in range(3)], MULTI_LABEL, (MULTI_LABEL,), TYPED),
    "lists of shares": Kind(lambda r: [r.choice((0.25, 0.5)) for _ in range(2)], None, (MULTI_LABEL,), TYPED),
    "objects": Kind(
        lambda r: {"rude": r.randrange(2), "threat": r.choice((0, 1, 0.5))}, MULTI_LABEL, (MULTI_LABEL,), TYPED
    ),
    "list cells": Kind(lambda r: str(_subset(r, ("rude", "a, b", "é"))), None, (MULTI_LABEL, SINGLE_LABEL), CELLS),
    "joined names": Kind(
        lambda r: ";".join(_subset(r, ("x", "y", "z"))) or ";", None, (MULTI_LABEL, SINGLE_LABEL), CELLS
    ),
    "columns": Kind(lambda r: [r.choice((0, 1, 0.25, None)) for _ in range(3)], MULTI_LABEL, (MULTI_LABEL,)),
    "decimal commas": Kind(lambda r: r.choice(("0,05", "2,5", "-3,75", "7")), REGRESSION, (REGRESSION,), CELLS),
    "mixed": Kind(lambda r: r.choice((1, "1", [1], {"a": 1}, True, 0.5)), None, (), JSON),
    "nested": Kind(lambda r: r.choice(([["a"]], {"a": {"b": 1}}, [{"a": 1}])), None, (), JSON),
}
NAME_LISTS = ("lists of names", "lists of one name", "lists of one number")
# Whose labels are one number each.
ARRAYS = ("vectors", "lists of shares", "objects", "columns")
COLUMNS = ("rude", "threat", "insult")


@dataclass
class Case:
    """A made-up file and how it is read.

    Attributes:
        fault: what was done to the file, "" for nothing.
        order: the order of the names that the type of the column declares.
        is_quoted: whether cells of a csv or tsv file that need it are quoted.
    """

    path: Path
    kind: str
    arguments: dict
    fault: str = ""
    delimiter: str = ","
    order: tuple[str, ...] = ()
    is_quoted: bool = False
    rows: list[dict] = field(default_factory=list)


def make_case(number: int, folder: Path, seed: int = 0) -> Case:
    """Makes file `number`, which depends on `(number, seed)` alone."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice(list(KINDS))
    suffix = rng.choice(KINDS[kind].formats)
    case = Case(folder / f"{number}.{suffix}", kind, {})
    label = rng.choice(("label", "label", "labels", "target"))
    for row in range(rng.choice((1, 2, 3, 8, 30))):
        value = KINDS[kind].make(rng)
        labels = dict(zip(COLUMNS, value, strict=True)) if kind == "columns" else {label: value}
        text = f"{row} {rng.choice(WORDS)}{rng.choice(('', chr(10), ' '))}{rng.choice(WORDS)}"
        case.rows.append({"id": row, "text": text, **labels})
    if rng.random() < 0.15:  # a value that is missing
        column = rng.choice([name for name in case.rows[0] if name != "id"])
        for row in rng.sample(case.rows, rng.randint(1, len(case.rows))):
            row[column] = None
    if label == "target" or kind == "columns":
        case.arguments["label_column_name"] = ",".join(COLUMNS) if kind == "columns" else label
    stated = rng.choice(
        (None, SINGLE_LABEL, MULTI_LABEL, REGRESSION) if rng.random() < 0.2 else (None, *KINDS[kind].read_as)
    )
    if stated is not None:
        case.arguments["problem_type"] = stated
    _write(case, rng)
    if rng.random() < 0.15:
        _damage(case, rng)
    return case


def rows_again(case: Case, number: int, seed: int) -> Case:
    """Writes some of the rows of a case to another file, perhaps in another format."""
    rng = random.Random(f"{seed} {number} again")
    path = case.path.with_name(f"{number}-again.{rng.choice(KINDS[case.kind].formats)}")
    other = Case(path, case.kind, case.arguments, rows=rng.choices(case.rows, k=rng.choice((1, 3, 8))))
    _write(other, rng)
    return other


def _write(case: Case, rng: random.Random) -> None:
    names = list(case.rows[0])
    if case.path.suffix == ".parquet":
        table = pa.Table.from_pylist(case.rows)
        values = [row[names[-1]] for row in case.rows]
        if case.kind == "names" and rng.random() < 0.5 and None not in values:
            case.order = tuple(rng.sample(("toxic", "fine", "é", "NA", "1st", "unused"), 6))
            codes = pa.array([case.order.index(value) for value in values], pa.int8())
            ordered = pa.DictionaryArray.from_arrays(codes, case.order, ordered=True)
            table = table.set_column(len(names) - 1, names[-1], ordered)
        elif case.kind == "whole numbers" and rng.random() < 0.5:
            numbers = table[names[-1]].cast(rng.choice((pa.int8(), pa.int64(), pa.decimal128(22, 2))))
            table = table.set_column(len(names) - 1, names[-1], numbers)
        elif case.kind == "odd names":
            dtype = rng.choice(
                (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
            )
            table = table.set_column(len(names) - 1, names[-1], table[names[-1]].cast(dtype))
        pq.write_table(table, case.path, row_group_size=rng.choice((4, 1000)))
    elif case.path.suffix in (".csv", ".tsv"):
        stream = io.StringIO(newline="")
        ending = rng.choice(("\n", "\r\n"))
        case.delimiter = rng.choice(",,,;\t|") if case.path.suffix == ".csv" else "\t"
        case.is_quoted = case.path.suffix == ".csv" or rng.random() < 0.5
        lines = [names, *([str("" if v is None else v) for v in row.values()] for row in case.rows)]
        if case.is_quoted:
            csv.writer(stream, delimiter=case.delimiter, lineterminator=ending).writerows(lines)
        else:
            stream.write("".join("\t".join(line).replace("\n", " ") + ending for line in lines))
        case.path.write_bytes(stream.getvalue().encode(rng.choice(("utf-8", "utf-8-sig"))))
    elif case.path.suffix == ".jsonl":
        is_sparse = rng.random() < 0.3  # a missing value may be a missing key
        rows = [{k: v for k, v in row.items() if v is not None or not is_sparse} for row in case.rows]
        case.path.write_text("".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows))
    else:
        document = case.rows
        if rng.random() < 0.2:
            document, case.arguments["json_field"] = {"version": 1, "data": case.rows}, "data"
        case.path.write_text(json.dumps(document, indent=rng.choice((None, 1))))


def _damage(case: Case, rng: random.Random) -> None:
    content = bytearray(case.path.read_bytes())
    case.fault = rng.choice(("cut", "changed", "repeated column", "ragged", "utf-16", "empty", "no rows"))
    if case.fault == "cut":
        content = content[: rng.randrange(len(content))]
    elif case.fault == "changed":
        for _ in range(rng.choice((1, 3, 20))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif case.fault == "utf-16":
        content = content.decode("latin-1").encode("utf-16")
    elif case.fault == "empty":
        content = b""
    elif case.path.suffix in (".csv", ".tsv"):
        first, _, rest = bytes(content).partition(b"\n")
        if case.fault == "repeated column":
            content = first.rstrip(b"\r") + case.delimiter.encode() + b"text\n" + rest
        elif case.fault == "ragged":
            content += case.delimiter.encode().join([b"1"] * rng.randrange(1, 9)) + b"\n"
        else:
            content = first + b"\n"
    case.path.write_bytes(content)
