"""A fuzz of the data reader: made-up files of every format, each read as it should be or refused as it should be.

    pip install polars && python -m experiments.fuzz_reader --files 20000

Each file has a kind of label, a way to write it, and often a fault: missing values, repeated columns, bytes cut off or
changed. It ends well in one of two ways. `load_data` returns data whose texts, label map and labels agree row by row
with those that polars reads from the same file. Or it raises a `UserError` that names the file. Anything else is
printed with the number of the file: `--only 17` makes it again.
"""

import argparse
import csv
import io
import json
import math
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.arguments import DataArguments
from text_data.loading import TextClassificationData, load_data

SECONDS_A_FILE = 20
GOOD = ("right", "right, by one reader", "refused")
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
    """

    path: Path
    kind: str
    arguments: dict
    fault: str = ""
    delimiter: str = ","
    order: tuple[str, ...] = ()
    rows: list[dict] = field(default_factory=list)


# ---- Making files ----


def make_case(number: int, folder: Path, seed: int = 0) -> Case:
    """Makes file `number`, which depends on `(number, seed)` alone."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice(list(KINDS))
    suffix = rng.choice(KINDS[kind].formats)
    case = Case(folder / f"{number}.{suffix}", kind, {})
    if suffix == "csv":
        case.delimiter = rng.choice(",,,;\t|")
    elif suffix == "tsv":
        case.delimiter = "\t"
    label = rng.choice(("label", "label", "labels", "target"))
    for row in range(rng.choice((1, 2, 3, 8, 30))):
        value = KINDS[kind].make(rng)
        labels = dict(zip(COLUMNS, value, strict=True)) if kind == "columns" else {label: value}
        text = f"{row} {rng.choice(WORDS)}{rng.choice(('', chr(10), ' '))}{rng.choice(WORDS)}"
        case.rows.append({"id": row, "text": text if suffix != "tsv" else text.replace("\n", " "), **labels})
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
        if case.path.suffix == ".csv":
            writer = csv.writer(stream, delimiter=case.delimiter, lineterminator=ending)
            writer.writerow(names)
            writer.writerows([["" if v is None else v for v in row.values()] for row in case.rows])
        else:
            lines = [names, *([str("" if v is None else v) for v in row.values()] for row in case.rows)]
            stream.write("".join("\t".join(line) + ending for line in lines))
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


# ---- Reading them again ----


def read_with_polars(case: Case) -> dict[str, list]:
    """Reads the columns of a file by polars."""
    import polars as pl  # an extra of this experiment

    suffix = case.path.suffix
    if suffix == ".parquet":
        frame = pl.read_parquet(case.path)
    elif suffix == ".jsonl":
        frame = pl.read_ndjson(case.path, infer_schema_length=None)
    elif suffix == ".json":
        document = json.loads(case.path.read_text())
        rows = document if isinstance(document, list) else document["data"]
        frame = pl.DataFrame(rows, infer_schema_length=None)
    else:
        options = {"separator": case.delimiter, "quote_char": '"' if suffix == ".csv" else None}
        frame = pl.read_csv(case.path, infer_schema=False, empty_string_is_null=False, **options)
    return {name: frame[name].to_list() for name in frame.columns}


def read_with_pandas(case: Case) -> dict[str, list]:
    """Reads the columns of a file by pandas and the modules csv and json of Python."""
    import pandas as pd

    if case.path.suffix == ".parquet":
        frame = pd.read_parquet(case.path, dtype_backend="pyarrow").astype(object)
        values = {name: [None if value is pd.NA else value for value in frame[name]] for name in frame}
        return {
            name: [v.tolist() if isinstance(v, np.ndarray) else v for v in column] for name, column in values.items()
        }
    text = case.path.read_bytes().decode("utf-8-sig")
    if case.path.suffix in (".json", ".jsonl"):
        is_lines = case.path.suffix == ".jsonl"
        document = [json.loads(line) for line in text.split("\n") if line] if is_lines else json.loads(text)
        rows = document if isinstance(document, list) else document["data"]
        return {name: [row.get(name) for row in rows] for name in dict.fromkeys(k for row in rows for k in row)}
    quoting = csv.QUOTE_MINIMAL if case.path.suffix == ".csv" else csv.QUOTE_NONE
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=case.delimiter, quoting=quoting)
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


# ---- Comparing ----


def outcome_of(case: Case, read: Callable[[Case], dict[str, list]]) -> str:
    """Reads a file twice; returns "right", "refused", or what is wrong."""
    kind, stated = KINDS[case.kind], case.arguments.get("problem_type")
    problem_type = None if _has_one_each(case) else kind.problem_type
    try:
        data_args = DataArguments(train_file=str(case.path), validation_file=str(case.path), **case.arguments)
        data = load_data(data_args, seed=0)
    except UserError as error:
        message = str(error)
        if str(case.path) not in message:
            return f"WRONG: the message names no file: {message}"
        needed = ["text"] if case.kind == "columns" else list(case.rows[0])
        is_complete = all(row[name] is not None for row in case.rows for name in needed)
        values = [row[list(row)[-1]] for row in case.rows]
        is_varied = len({str(value) for value in values}) > 1 and case.kind != "odd names"
        may_be_read = (problem_type and stated is None) or stated in kind.read_as
        if not case.fault and is_complete and is_varied and may_be_read and _is_readable(case, values):
            return f"WRONG: refused without need: {message}"
        return "refused"
    if not case.fault and stated is None and problem_type is None and _is_open(case):
        return f"WRONG: read as {data.labels.problem_type} without a word"
    if not case.fault and data.labels.problem_type != (stated or problem_type) and _is_open(case):
        return f"WRONG: read as {data.labels.problem_type}"
    try:
        columns = read(case)
    except Exception as error:
        # Files that were damaged may be read by one reader and not by the other.
        return "right, by one reader" if case.fault else f"WRONG: the other reader says {error}"
    return differences(case, data, columns)


def _is_readable(case: Case, values: list) -> bool:
    """Whether the file of a kind holds enough to be read."""
    if case.order and case.arguments.get("problem_type") == MULTI_LABEL:
        return False  # the type says one label a row
    if case.kind == "columns":
        return all(any(row[name] is not None for row in case.rows) for name in COLUMNS)
    if case.kind in (*NAME_LISTS, "list cells", "joined names"):
        if case.kind == "list cells" and case.arguments.get("problem_type") == SINGLE_LABEL:
            return all(len(_names_in(value)) == 1 for value in values)
        cells = [value if isinstance(value, list) else value.strip("[]").split(";") for value in values]
        return len({name for cell in cells for name in cell if name != ""}) > 1
    if case.kind == "shares":
        return any(value % 1 for value in values)
    return case.kind != "fractions" or any(value % 1 for value in values)


def _has_one_each(case: Case) -> bool:
    """Whether every row has exactly one of several labels, so that they may exclude each other."""
    values = [row[list(row)[-1]] for row in case.rows]
    if case.kind in NAME_LISTS:
        return all(value is not None and len(value) == 1 for value in values)
    if case.kind == "columns":
        values = [[row[name] for name in COLUMNS] for row in case.rows]
    if case.kind not in ("columns", "vectors", "objects") or None in values:
        return False
    shares = [list(value.values()) if isinstance(value, dict) else value for value in values]
    return all(sorted(row, key=str) == [0] * (len(row) - 1) + [1] for row in shares)


def _is_open(case: Case) -> bool:
    """Whether the rows show the kind: a few rows of joined names may look like one name each."""
    values = [row[list(row)[-1]] for row in case.rows]
    if case.kind == "joined names":
        return False
    if case.kind in ("fractions", "shares"):
        return any(value is not None and value % 1 for value in values)
    return case.kind not in ("mixed", "nested", "odd names")


def differences(case: Case, data: TextClassificationData, columns: dict[str, list]) -> str:
    """Compares texts, label map and labels row by row with the columns of another reader; "right" if all agree."""
    split, labels = data.splits["train"], data.labels
    (text,) = data.text_columns
    if split[text][:] != columns[text]:
        return f"WRONG: texts {split[text][:]} are {columns[text]}"
    name = case.arguments.get("label_column_name") or ("label" if "label" in columns else "labels")
    values = list(zip(*(columns[column] for column in name.split(",")), strict=True))
    values = values if "," in name else [value for (value,) in values]
    if case.order and labels.names != case.order:
        return f"WRONG: the order {labels.names} is {case.order}"
    expected = [_spelled(value, data, case) for value in values]
    found = [_spelled_by_us(row, data, case) for row in split["label"][:]]
    if expected != found:
        return f"WRONG: labels {found} are {expected}"
    if labels.problem_type == SINGLE_LABEL and not labels.is_soft and not case.order and case.kind not in ARRAYS:
        classes = set(expected)
        try:
            ordered = sorted(sorted(classes), key=int)
        except ValueError:
            ordered = sorted(classes)
        if list(labels.names) != ordered:
            return f"WRONG: the names {labels.names} are {ordered}"
        counts = Counter(split["label"][:])
        if {labels.names[index]: count for index, count in counts.items()} != Counter(expected):
            return f"WRONG: counts {counts}"
    return "right"


def _spelled(value: object, data: TextClassificationData, case: Case) -> object:
    """The label of another reader in a form in which labels can be compared."""
    labels = data.labels
    if isinstance(value, dict):
        value = [value[name] for name in labels.names]
    if case.kind == "list cells":
        value = _names_in(value)
    elif case.kind == "lists of one number" and labels.problem_type != REGRESSION:
        value = [str(number) for number in value]
    if case.kind in ARRAYS:
        value = [None] * labels.num_labels if value is None else value
        numbers = [math.nan if v in (None, "") else float(v) for v in value]
        shares = [None if math.isnan(number) or number == -1 else round(number, 5) for number in numbers]
        return shares if labels.problem_type == MULTI_LABEL or labels.is_soft else labels.names[shares.index(1)]
    if labels.problem_type == REGRESSION:
        return round(float(value[0] if isinstance(value, list) else value), 5)
    if labels.problem_type == SINGLE_LABEL and labels.is_soft:
        return [round(1 - float(value), 5), round(float(value), 5)]
    if labels.problem_type == SINGLE_LABEL and case.kind in (*NAME_LISTS, "list cells"):
        return value[0]
    if labels.problem_type == SINGLE_LABEL:
        is_decimal = case.kind in ("whole decimals", "shares", "fractions") or not isinstance(value, str | bool | int)
        return str(int(float(value))) if is_decimal else str(value)
    if isinstance(value, str) and case.kind != "columns":
        value = [part.strip() for part in value.split(";") if part.strip()]
    return sorted(set(value))


def _names_in(cell: str) -> list[str]:
    """The names in a cell that spells a list; a damaged one is a name."""
    try:
        return json.loads(cell.replace("'", '"'))
    except ValueError:
        return [cell]


def _spelled_by_us(row: object, data: TextClassificationData, case: Case) -> object:
    labels = data.labels
    if labels.problem_type == REGRESSION:
        return round(row, 5)
    if labels.problem_type == SINGLE_LABEL:
        return [round(share, 5) for share in row] if labels.is_soft else labels.names[row]
    if case.kind not in ARRAYS:
        return sorted(name for name, value in zip(labels.names, row, strict=True) if value)
    return [None if math.isnan(value) else round(value, 5) for value in row]


# ---- Running ----


class Hang(BaseException):
    """Raised while a file is read for too long; no `Exception`, which the reader would take for a damaged file."""


def run_case(number: int, folder: Path, read: Callable[[Case], dict[str, list]], seed: int = 0) -> tuple[Case, str]:
    """Makes and reads one file; returns the case and its outcome."""
    case = make_case(number, folder, seed)
    try:
        outcome = outcome_of(case, read)
    except Hang:
        outcome = f"HANG: not read in {SECONDS_A_FILE} s of processor time"
    except Exception as error:
        outcome = f"TRACEBACK: {type(error).__name__}: {error}"
    finally:
        case.path.unlink()
    return case, outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="number of files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one file to make, to read")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _stop)
    outcomes, start = Counter(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.files) if args.only is None else [args.only]:
            signal.setitimer(signal.ITIMER_PROF, SECONDS_A_FILE)
            case, outcome = run_case(number, Path(folder), read_with_polars, args.seed)
            signal.setitimer(signal.ITIMER_PROF, 0)
            outcomes[outcome.partition(":")[0]] += 1
            if outcome not in GOOD or args.only is not None:
                print(
                    f"{number} {case.path.suffix} {case.kind} {case.fault} {case.arguments}\n    {outcome}", flush=True
                )
    print(f"{sum(outcomes.values()):,} files in {time.time() - start:.0f} s: {dict(outcomes)}")
    sys.exit(0 if outcomes.keys() <= set(GOOD) else 1)


def _stop(signal_number: int, frame: object) -> None:
    raise Hang


if __name__ == "__main__":
    main()
