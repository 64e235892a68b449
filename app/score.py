"""Scores a file of comments that may be larger than memory: labels and probabilities as further columns.

    python -m app.score comments.parquet --model_dir outputs/toxic_comments-odd --output scored.parquet
    python -m app.score google/civil_comments --split test --model_dir MODEL --output scored.jsonl
    python -m app.score comments.csv --model_dir MODEL --output scored-1.csv --shard 1/4    # first of 4 machines

csv, jsonl and parquet are read and written, and data sets of the Hub are read, a block of rows at a time. Finished
blocks are kept beside the output until it is complete, so that the same command continues after an interruption.
"""

import argparse
import errno
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from app.comments_file import find_text_column
from app.cores import available_cores, share_cores
from app.models import BACKENDS, Answer, Model, load_model, sha256_of
from app.rows import FORMATS, ending, join_files, open_source, write_rows
from app.service import is_blank

# Few, because each row takes some kilobytes of Python objects.
BLOCK_ROWS = 2_000
TEXTS_A_CALL = 32
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Shard:
    """Every `count`-th block of rows, from the `number`-th on; both from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads "2/4"."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"--shard must be I/N with I from 1 to N, found {text!r}. For example 1/4.")
        return cls(int(number), int(count))

    def blocks(self, rows: Iterator[dict]) -> Iterator[list[dict]]:
        """Returns the blocks of the shard, of `BLOCK_ROWS` rows each."""
        index = 0
        while block := list(islice(rows, BLOCK_ROWS)):
            if index % self.count == self.number - 1:
                yield block
            index += 1


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    share_cores()
    try:
        score_file(args)
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        sys.exit(f"error: the package {package} is not installed. Run `pip install {package}`.")
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f". Free some space for --output {args.output}: the same command continues from its finished blocks."
        sys.exit(f"error: {error}{advice if is_full else ''}")
    except ValueError as error:
        sys.exit(f"error: {error}")


def score_file(args: argparse.Namespace) -> None:
    """Scores the input of a command line into its output.

    Raises:
        ValueError: an argument does not fit the input or the model.
    """
    output = Path(args.output)
    if ending(output) not in FORMATS:
        raise ValueError(f"--output must end in {', '.join(FORMATS)}, found {output.name}.")
    check_is_new(output)
    shard, model = Shard.parse(args.shard), load_model(args.model_dir, args.backend)
    thresholds = parse_thresholds(args.threshold, model)
    source = open_source(args.input, args.split)
    # An empty file without a header has none.
    text_column = choose_text_column(tuple(source.columns), args.text_column) if source.columns else None
    further = {"predicted_label": "string"} | {f"score_{label}": "double" for label in model.labels}
    if taken := [name for name in further if name in source.columns]:
        raise ValueError(f"{args.input} has the column {taken[0]} already, which is to be written. Rename it.")
    settings = {
        "input": args.input,
        "input_sha256": sha256_of(args.input) if Path(args.input).is_file() else None,
        "block_rows": BLOCK_ROWS,
        "split": args.split,
        "text_column": text_column,
        "shard": args.shard,
        "thresholds": thresholds,
        # What the answers depend on beside the weights. These files may have been changed by hand.
        "labels": list(model.labels),
        "thresholds of the model": model.thresholds,
        "max_length": model.max_length,
        "tokenizer_sha256": sha256_of(model.folder / "tokenizer.json"),
        **model.identity,
    }
    columns = {**source.columns, **further}
    with open_parts(output, settings) as parts, ThreadPoolExecutor(available_cores()) as executor:
        header = parts / f"header{output.suffix}"
        write_rows(header, [], columns)
        done = len(finished(parts, output))
        blocks = islice(shard.blocks(with_texts(source.rows, text_column, args.input)), done, None)
        progress = Progress(source.total, shard, done)
        for number, rows in enumerate(blocks, done):
            answers = classify_all(model, executor, [row[text_column] for row in rows])
            if thresholds:
                answers = [answer and answer.with_thresholds(thresholds) for answer in answers]
            scored = [row | columns_of(answer, model.labels) for row, answer in zip(rows, answers, strict=True)]
            unfinished = parts / f"unfinished{output.suffix}"
            write_rows(unfinished, scored, columns)
            unfinished.rename(parts / f"{number:06}{output.suffix}")
            progress.report(len(rows))
        joined = parts / f"joined{output.suffix}"
        join_files([header, *finished(parts, output)], joined)
        joined.rename(output)
    print(f"{output} is complete.", file=sys.stderr)


def check_is_new(output: Path) -> None:
    """Raises a `ValueError` if the output exists."""
    if output.exists():
        raise ValueError(f"--output {output} exists already. Remove it, or choose another name.")


def parse_thresholds(given: Sequence[str], model: Model) -> dict[str, float]:
    """Reads thresholds such as "toxic=0.8".

    Raises:
        ValueError: one of them is no probability of a label, or the model has no thresholds.
    """
    thresholds = {}
    for text in given:
        label, _, value = text.rpartition("=")
        try:
            thresholds[label] = float(value)
            model.check_thresholds(thresholds)
        except ValueError as error:
            raise ValueError(f"--threshold must be LABEL=PROBABILITY, found {text!r}: {error}.") from error
    return thresholds


def choose_text_column(columns: Sequence[str], given: str | None) -> str:
    """Returns the column with the comments: the given one, one with a well-known name, or the only one.

    Raises:
        ValueError: there is none.
    """
    if given is None and (found := find_text_column(columns)) is not None:
        return columns[found]
    if given not in columns:
        raise ValueError(
            f"--text_column must name the column with the comments, one of {', '.join(columns)}"
            + (f", found {given}." if given else ". None has a well-known name such as text or comment.")
        )
    return given


def with_texts(rows: Iterator[dict], text_column: str | None, name: str) -> Iterator[dict]:
    """Returns the rows.

    Raises:
        ValueError: a row has something else than text, or nothing, in the column with the comments.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row[text_column], str | None):
            raise ValueError(
                f"Row {number} of {name} must have text in the column {text_column}, found {row[text_column]!r:.100}. "
                "Correct it, or name another column by --text_column."
            )
        yield row


@contextmanager
def open_parts(output: Path, settings: dict) -> Iterator[Path]:
    """Gives the folder of finished blocks beside the output, which an interrupted run may have left.

    The folder is removed when the block ends without an error.

    Raises:
        ValueError: the blocks are of another input, model or option, or another process scores into the output or has
            written it.
    """
    parts = output.with_name(f"{output.name}.parts")
    file = parts / SETTINGS_FILE
    with claimed(output):
        check_is_new(output)
        parts.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            unfinished = parts / f".{SETTINGS_FILE}"
            unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            unfinished.rename(file)
        earlier = json.loads(file.read_text(encoding="utf-8"))
        # Earlier versions have noted less.
        if changed := [name for name, value in settings.items() if earlier.get(name, value) != value]:
            raise ValueError(
                f"{parts} holds blocks of another scoring, which differs in {', '.join(changed)}. Remove it to begin "
                "again, or choose another --output."
            )
        yield parts
        shutil.rmtree(parts)


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keeps other processes from scoring into the output until the block ends.

    Raises:
        ValueError: another one does so.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_name(f".{output.name}.lock")
    try:
        lock = FileLock(file, blocking=False).acquire()
    except Timeout:
        raise ValueError(f"Another process scores into --output {output}. Choose another name.") from None
    with lock:
        try:
            yield
        finally:
            # Two processes could hold locks on a file that is removed, but none goes on where there is an output.
            if output.exists():
                file.unlink()


def finished(parts: Path, output: Path) -> list[Path]:
    """Returns the finished blocks in their order."""
    return sorted(parts.glob(f"[0-9]*{output.suffix}"))


def classify_all(model: Model, executor: ThreadPoolExecutor, texts: Sequence[str | None]) -> list[Answer | None]:
    """Returns an answer for each text on all threads, `None` for texts that are missing or blank."""
    # Texts of similar length run together, because a batch is padded.
    order = sorted((i for i, text in enumerate(texts) if text and not is_blank(text)), key=lambda i: len(texts[i]))
    chunks = [order[start : start + TEXTS_A_CALL] for start in range(0, len(order), TEXTS_A_CALL)]
    answers: list[Answer | None] = [None] * len(texts)
    found = executor.map(model.classify, ([texts[i] for i in chunk] for chunk in chunks))
    for chunk, chunk_answers in zip(chunks, found, strict=True):
        for i, answer in zip(chunk, chunk_answers, strict=True):
            answers[i] = answer
    return answers


def columns_of(answer: Answer | None, labels: Sequence[str]) -> dict[str, str | float | None]:
    """Returns the further columns of a row; all are empty where there is no answer."""
    if answer is None:
        return {"predicted_label": None, **{f"score_{label}": None for label in labels}}
    return {
        "predicted_label": ";".join(answer.labels),
        **{f"score_{label}": score for label, score in answer.scores.items()},
    }


class Progress:
    """Says after each block how many rows are scored, how quickly, and for how long it will go on."""

    def __init__(self, total: int | None, shard: Shard, done: int):
        """
        Args:
            total: rows of all shards, `None` if unknown.
            done: blocks that an earlier run has scored.
        """
        self._remaining = total and max(total // shard.count - done * BLOCK_ROWS, 0)
        self._started, self._rows = time.perf_counter(), 0
        if done:
            print(f"{done} blocks of {BLOCK_ROWS:,} rows were scored before.", file=sys.stderr)

    def report(self, num_rows: int) -> None:
        self._rows += num_rows
        rate = self._rows / (time.perf_counter() - self._started)
        left = ""
        if self._remaining:
            left = f", about {max(self._remaining - self._rows, 0) / rate / 60:.0f} minutes left"
        print(f"{self._rows:,} rows, {rate:,.0f} a second{left}", file=sys.stderr)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m app.score", description="Scores a file of comments of any size.")
    parser.add_argument("input", help=f"file that ends in {', '.join(FORMATS)}, or name of a data set of the Hub")
    parser.add_argument("--model_dir", required=True, help="folder of an exported model or of a checkpoint")
    parser.add_argument("--output", required=True, help=f"new file that ends in {', '.join(FORMATS)}")
    parser.add_argument(
        "--text_column", help="unset: one with a well-known name (text, comment, ...), or the only one"
    )
    parser.add_argument("--split", default="train", help="split of a data set of the Hub (default: %(default)s)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default=BACKENDS[0], help="as for the app (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="LABEL=PROBABILITY",
        help="from which probability a comment has a label of a model with several; repeat the option for other "
        "labels. Unset: the thresholds of the model",
    )
    parser.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help=f"score every N-th block of {BLOCK_ROWS:,} rows from the I-th on, one shard on each of N machines",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
