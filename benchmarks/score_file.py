"""`python -m app.score` on a large parquet file: rate beside the bare model's, and memory while it runs.

    python -m benchmarks.score_file --model_dir outputs/toxic_comments-odd --rows 1000000

The comments are those of the sample data's training split, repeated. After each tenth of the file the command is
suspended, and the bare model answers the same comments on as many threads for 10 seconds, because the pace of a
machine changes. Rates are by the clock and by processor time; on a machine with other work only the second kind says
something. The figures go to `docs/results/score_file.json`.
"""

import argparse
import csv
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from app.cores import available_cores, share_cores
from app.models import Model, load_model
from app.score import BLOCK_ROWS, classify_all
from benchmarks.results import RESULTS, ROOT

BARE_SECONDS = 10
TENTHS = 10


@dataclass(frozen=True)
class Pace:
    """How long a number of comments took: seconds by the clock, and of processor time over all threads."""

    rows: int
    seconds: float
    cpu_seconds: float

    def __sub__(self, earlier: "Pace") -> "Pace":
        return Pace(*(late - early for late, early in zip(astuple(self), astuple(earlier), strict=True)))


@dataclass(frozen=True)
class Tenth:
    """What was measured in a tenth of the file.

    Attributes:
        scored: the command.
        bare: the bare model, right after it.
        peak_mb: highest resident memory of the command.
    """

    scored: Pace
    bare: Pace
    peak_mb: float

    def share(self, kind: str) -> float:
        """Returns the rate of the command as a share of the bare model's, by "seconds" or "cpu_seconds"."""
        rates = [pace.rows / getattr(pace, kind) for pace in (self.scored, self.bare)]
        return rates[0] / rates[1]


def main():
    args = parse_arguments()
    share_cores()
    with open(ROOT / "data" / "toxic_comments" / "train.csv", encoding="utf-8", newline="") as file:
        comments = [row["text"] for row in csv.DictReader(file)]
    if args.max_characters:
        comments = [text for text in comments if len(text) <= args.max_characters]
    model = load_model(args.model_dir)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "comments.parquet", Path(folder) / "scored.parquet"
        write_comments(source, comments, args.rows)
        command = [sys.executable, "-m", "app.score", source, "--model_dir", args.model_dir, "--output", target]
        tenths = run_watched(command, args.rows, lambda: bare_pace(model, comments))
        num_scored = pq.ParquetFile(target).metadata.num_rows
    result = {
        "command": " ".join(["python -m benchmarks.score_file", *sys.argv[1:]]),
        "cores": available_cores(),
        "comments": {"different": len(comments), "mean_characters": sum(map(len, comments)) / len(comments)},
        "rows": num_scored,
        "share_of_bare": {
            kind: describe([tenth.share(kind) for tenth in tenths]) for kind in ("seconds", "cpu_seconds")
        },
        "peak_mb": describe([tenth.peak_mb for tenth in tenths]),
        "tenths": [asdict(tenth) for tenth in tenths],
    }
    text = json.dumps(result, indent=2)
    (RESULTS / "score_file.json").write_text(text + "\n")
    print(text)


def write_comments(file: Path, comments: list[str], count: int) -> None:
    texts = cycle(comments)
    with pq.ParquetWriter(file, pa.schema([("id", pa.int64()), ("text", pa.string())])) as writer:
        for start in range(0, count, BLOCK_ROWS):
            size = min(BLOCK_ROWS, count - start)
            writer.write_table(
                pa.table({"id": range(start, start + size), "text": list(islice(texts, size))}, schema=writer.schema)
            )


def bare_pace(model: Model, comments: list[str]) -> Pace:
    """Runs the model alone, on one thread for each core."""
    started, cpu_started, count = time.perf_counter(), time.process_time(), 0
    with ThreadPoolExecutor(available_cores()) as executor:
        while time.perf_counter() < started + BARE_SECONDS:
            classify_all(model, executor, comments)
            count += len(comments)
    return Pace(count, time.perf_counter() - started, time.process_time() - cpu_started)


def run_watched(command: list, rows: int, measure_bare: Callable[[], Pace]) -> list[Tenth]:
    """Runs the command, and suspends it after each tenth of the rows to measure the bare model.

    The first tenth begins with the first finished block, after the start of the command.
    """
    process = psutil.Popen(command, cwd=ROOT)
    parts, num_blocks = Path(f"{command[-1]}.parts"), -(-rows // BLOCK_ROWS)
    tenths, begin, reached, peak = [], None, 0, 0.0
    while process.poll() is None:
        finished = len(list(parts.glob("[0-9]*")))
        with suppress(psutil.NoSuchProcess):  # it ends
            now = Pace(finished * BLOCK_ROWS, time.perf_counter(), sum(process.cpu_times()[:2]))
            tenth = min(finished * TENTHS // num_blocks, TENTHS - 1)
            if begin is None and finished:
                begin, reached = now, tenth
            peak = max(peak, process.memory_info().rss / 1e6) if finished else 0.0
            if tenth > reached:
                process.suspend()
                tenths.append(Tenth(now - begin, measure_bare(), peak))
                process.resume()
                begin, reached, peak = replace(now, seconds=time.perf_counter()), tenth, 0.0
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError("app.score has failed.")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    end = Pace(rows, time.perf_counter(), usage.ru_utime + usage.ru_stime)
    return [*tenths, Tenth(end - begin, measure_bare(), peak)]


def describe(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="folder of the exported model, as for `python -m app`")
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of comments (default: %(default)s)")
    parser.add_argument("--max_characters", type=int, help="use only comments up to this length. Unset: all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
