"""`python -m app.score` on a large parquet file: rate beside the bare model's, and memory while it runs.

    python -m benchmarks.score_file --model_dir outputs/toxic_comments-odd --rows 1000000

The comments are those of the sample data's training split, repeated. The pace of a machine changes, so the command and
the bare model take turns: the bare model makes a pass over these comments, while the command is suspended; then the
command runs for nine times as long. Rates are by the clock and by processor time; on a machine with other work only
the second kind says something. Memory is resident memory, every half a second: when a twentieth of the rows is scored,
at each tenth, and the lowest and highest since then. The figures go to `docs/results/score_file.json`.
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
from dataclasses import asdict, astuple, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from app.cores import available_cores, share_cores
from app.models import Model, load_model
from app.score import BLOCK_ROWS, classify_all
from benchmarks.results import RESULTS, ROOT

# The command runs so many times as long as the bare model.
TURNS_OF_COMMAND = 9
SECONDS_BETWEEN_SAMPLES = 0.5
# Of the rows. Until then libraries load and buffers grow to the longest comments.
WARM_UP = 0.05


@dataclass(frozen=True)
class Pace:
    """How long a number of comments took: seconds by the clock, and of processor time over all threads."""

    rows: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: "Pace") -> "Pace":
        return Pace(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Memory(NamedTuple):
    """Resident memory in MB when so many rows were scored."""

    rows: int
    megabytes: float


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
        scored, bare, memory = run_watched(command, args.rows, lambda: bare_pace(model, comments))
        num_scored = pq.ParquetFile(target).metadata.num_rows
    result = {
        "command": " ".join(["python -m benchmarks.score_file", *sys.argv[1:]]),
        "cores": available_cores(),
        "comments": {"different": len(comments), "mean_characters": sum(map(len, comments)) / len(comments)},
        "rows": num_scored,
        "scored_after_the_first_block": asdict(scored),
        "bare": asdict(bare),
        "share_of_bare": {
            "by_clock": scored.rows / scored.seconds * bare.seconds / bare.rows,
            "by_cpu": scored.rows / scored.cpu_seconds * bare.cpu_seconds / bare.rows,
        },
        "resident_mb": summary(memory, args.rows),
    }
    text = json.dumps(result, indent=2)
    (RESULTS / "score_file.json").write_text(text + "\n")
    print(text)


def write_comments(file: Path, comments: list[str], count: int) -> None:
    """Writes numbered comments as one group of rows, as pandas writes up to a million rows."""
    texts = list(islice(cycle(comments), count))
    pq.write_table(pa.table({"id": range(count), "text": texts}), file, row_group_size=count)


def bare_pace(model: Model, comments: list[str]) -> Pace:
    """Runs the model alone, on one thread for each core."""
    started, cpu_started = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(available_cores()) as executor:
        classify_all(model, executor, comments)
    return Pace(len(comments), time.perf_counter() - started, time.process_time() - cpu_started)


def run_watched(command: list, rows: int, measure_bare: Callable[[], Pace]) -> tuple[Pace, Pace, list[Memory]]:
    """Runs the command in turns with the bare model.

    Returns:
        The pace of the command after its first block, that of the bare model, and the memory of the command from its
        first block on.
    """
    process, parts, memory, bare = psutil.Popen(command, cwd=ROOT), Path(f"{command[-1]}.parts"), [], Pace()
    while not blocks_in(parts):
        if process.poll() is not None:
            raise RuntimeError("app.score has ended before its first block.")
        time.sleep(0.05)
    cpu_started, seconds = sum(process.cpu_times()[:2]), 0.0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):  # it ends
            process.suspend()
            turn = measure_bare()
            bare += turn
            process.resume()
        resumed = time.perf_counter()
        while process.poll() is None and time.perf_counter() - resumed < TURNS_OF_COMMAND * turn.seconds:
            # Joining removes the blocks one after the other, when all of them are there.
            scored = max(blocks_in(parts) * BLOCK_ROWS, memory[-1].rows if memory else 0)
            with suppress(psutil.NoSuchProcess):
                if resident := process.memory_info().rss:  # a process that has ended has none
                    memory.append(Memory(scored, resident / 1e6))
            with suppress(psutil.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_SAMPLES)
        seconds += time.perf_counter() - resumed
    if process.returncode:
        raise RuntimeError("app.score has failed.")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Pace(rows - BLOCK_ROWS, seconds, usage.ru_utime + usage.ru_stime - cpu_started), bare, memory


def blocks_in(parts: Path) -> int:
    return len(list(parts.glob("[0-9]*")))


def summary(memory: list[Memory], rows: int) -> dict[str, float | list[float]]:
    """Returns the memory when the warm-up was over and at each tenth of the rows, and the lowest, highest and last."""
    warm = [sample for sample in memory if sample.rows >= WARM_UP * rows]
    tenths = [next(sample for sample in warm if sample.rows >= tenth * rows / 10) for tenth in range(1, 10)]
    megabytes = [sample.megabytes for sample in warm]
    return {
        "after_a_twentieth": megabytes[0],
        "at_each_tenth": [sample.megabytes for sample in tenths],
        "lowest": min(megabytes),
        "highest": max(megabytes),
        "last": megabytes[-1],
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="folder of the exported model, as for `python -m app`")
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of comments (default: %(default)s)")
    parser.add_argument("--max_characters", type=int, help="use only comments up to this length. Unset: all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
