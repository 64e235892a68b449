"""`python -m app.score` on a large parquet file: rate beside the bare model's, and memory while it runs.

    python -m benchmarks.score_file --model_dir outputs/toxic_comments-odd --rows 1000000

The comments are those of the sample data's training split, repeated. The bare model answers the same comments on as
many threads, for 30 seconds before and 30 seconds after, because the pace of a machine changes. The figures go to
`docs/results/score_file.json`.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from app.cores import available_cores, share_cores
from app.models import Model, load_model
from app.score import BLOCK_ROWS, classify_all
from benchmarks.results import RESULTS, ROOT

BARE_SECONDS = 30


def main():
    args = parse_arguments()
    share_cores()
    with open(ROOT / "data" / "toxic_comments" / "train.csv", encoding="utf-8", newline="") as file:
        comments = [row["text"] for row in csv.DictReader(file)]
    model = load_model(args.model_dir)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "comments.parquet", Path(folder) / "scored.parquet"
        write_comments(source, comments, args.rows)
        bare = [bare_rate(model, comments)]
        command = [sys.executable, "-m", "app.score", source, "--model_dir", args.model_dir, "--output", target]
        rate, megabytes = run_watched(command, args.rows)
        bare.append(bare_rate(model, comments))
        num_scored = pq.ParquetFile(target).metadata.num_rows
    result = {
        "command": " ".join(["python", *sys.argv]),
        "cores": available_cores(),
        "rows": num_scored,
        "rows_per_second": rate,
        "bare_rows_per_second": bare,
        "share_of_bare": rate / (sum(bare) / len(bare)),
        "resident_mb_every_tenth": megabytes,
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


def bare_rate(model: Model, comments: list[str]) -> float:
    """Returns comments a second of the model alone, on one thread for each core."""
    started, count = time.perf_counter(), 0
    with ThreadPoolExecutor(available_cores()) as executor:
        while time.perf_counter() < started + BARE_SECONDS:
            classify_all(model, executor, comments)
            count += len(comments)
    return count / (time.perf_counter() - started)


def run_watched(command: list, rows: int) -> tuple[float, list[float]]:
    """Runs the command; returns rows a second without the start, and its memory at ten times (MB, evenly spread)."""
    process, memory, first_block = subprocess.Popen(command, cwd=ROOT), [], None
    parts = Path(f"{command[-1]}.parts")
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        finished = len(list(parts.glob("[0-9]*")))
        if finished and first_block is None:
            first_block = time.perf_counter()
        if finished:
            memory.append(watched.memory_info().rss / 1e6)
        time.sleep(0.5)
    if process.returncode:
        raise RuntimeError("app.score has failed.")
    rate = (rows - BLOCK_ROWS) / (time.perf_counter() - first_block)
    return rate, memory[:: max(len(memory) // 10, 1)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="folder of the exported model, as for `python -m app`")
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of comments")
    return parser.parse_args()


if __name__ == "__main__":
    main()
