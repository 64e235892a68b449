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
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np

from experiments.made_up_files import ARRAYS, COLUMNS, KINDS, NAME_LISTS, Case, make_case
from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.arguments import DataArguments
from text_data.loading import TextClassificationData, load_data
from text_data.names import join_names

SECONDS_A_FILE = 20
GOOD = ("right", "right, by one reader", "refused")


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
        options = {"separator": case.delimiter, "quote_char": '"' if case.is_quoted else None}
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
    quoting = csv.QUOTE_MINIMAL if case.is_quoted else csv.QUOTE_NONE
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
        columns = ([row[name] for row in case.rows] for name in COLUMNS)
        return all(None not in column or len(set(column) - {None}) > 1 for column in columns)
    if case.kind == "decimal commas":
        return any(value in ("0,05", "-3,75") for value in values) or case.arguments.get("problem_type") == REGRESSION
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
    return case.kind not in ("mixed", "nested", "odd names", "decimal commas")


def outcome_of_splits(case: Case, other: Case, order: tuple[str, ...], read: Callable[[Case], dict[str, list]]) -> str:
    """Reads one file for training and another one for validation; returns what `outcome_of` does.

    Args:
        order: for `--label_order`, empty for none.
    """
    arguments = case.arguments | ({"label_order": join_names(order)} if order else {})
    try:
        data_args = DataArguments(train_file=str(case.path), validation_file=str(other.path), **arguments)
        data = load_data(data_args, seed=0)
    except UserError as error:
        is_named = any(str(path) in str(error) for path in (case.path, other.path))
        return "refused" if is_named else f"WRONG: the message names no file: {error}"
    if order and data.labels.names != order:
        return f"WRONG: the order {data.labels.names} is {order}"
    return differences(other, data, read(other), "validation")


def differences(case: Case, data: TextClassificationData, columns: dict[str, list], name: str = "train") -> str:
    """Compares a split row by row with the columns of another reader; "right" if texts and labels agree.

    For the training split the label map must agree too.
    """
    split, labels = data.splits[name], data.labels
    (text,) = data.text_columns
    if split[text][:] != columns[text]:
        return f"WRONG: texts {split[text][:]} are {columns[text]}"
    named = case.arguments.get("label_column_name") or ("label" if "label" in columns else "labels")
    values = list(zip(*(columns[column] for column in named.split(",")), strict=True))
    values = values if "," in named else [value for (value,) in values]
    if name == "train" and case.order and labels.names != case.order:
        return f"WRONG: the order {labels.names} is {case.order}"
    expected = [_spelled(value, data, case) for value in values]
    found = [_spelled_by_us(row, data, case) for row in split["label"][:]]
    if expected != found:
        return f"WRONG: labels {found} are {expected}"
    is_sorted = name == "train" and labels.problem_type == SINGLE_LABEL and not case.order
    if is_sorted and not labels.is_soft and case.kind not in ARRAYS:
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
        return round(_number(value[0] if isinstance(value, list) else value), 5)
    if labels.problem_type == SINGLE_LABEL and labels.is_soft:
        return [round(1 - _number(value), 5), round(_number(value), 5)]
    if labels.problem_type == SINGLE_LABEL and case.kind in (*NAME_LISTS, "list cells"):
        return value[0] if value else "[]"  # a name like another, if all other lists were cut
    if labels.problem_type == SINGLE_LABEL:
        is_decimal = case.kind in ("whole decimals", "shares", "fractions") or not isinstance(value, str | bool | int)
        return str(int(float(value))) if is_decimal else str(value)
    if isinstance(value, str) and case.kind != "columns":
        value = [part.strip() for part in value.split(";") if part.strip()]
    return sorted(set(value))


def _number(value: str | float) -> float:
    return float(value.replace(",", ".") if isinstance(value, str) else value)


def _names_in(cell: str) -> list[str]:
    """The names in a cell that spells a list; a damaged one is a name."""
    try:
        names = json.loads(cell.replace("'", '"'))
    except ValueError:
        return [cell]
    return names if isinstance(names, list) else [cell]


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
