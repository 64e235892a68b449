"""How the app stands up to many users at once, to hostile bodies, and to long use: 2 cores, loopback only.

    python -m benchmarks.load_app --model_dir outputs/toxic_comments-even --data_file ../shared/data/davidson/test.csv

starts `python -m app` with the int8 model and then measures, one after the other,

1. 50 concurrent clients for a minute, each of which asks again as soon as it is answered: with one text a request,
   then with four. Before and after, as the pace of a machine changes, the bare model: its throughput in batches of the
   size that the app forms under load, on as many threads as it uses;
2. memory over 10,000 further requests;
3. 10,000 hostile bodies, some of them broken off or larger than allowed.

The figures go to `docs/results/NAME.json`. The clients share the machine with the app, so the share of the cores that
they take is measured too.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import uvloop

from app.models import Model, load_model

ROOT = Path(__file__).resolve().parent.parent

HOST = "127.0.0.1"
TEXTS_A_REQUEST = (1, 4)
# Most of the hostile bodies go to the API, the others to what the page uses of Gradio.
FUZZED_PATHS = 8 * ("/api/classify",) + ("/gradio_api/queue/join", "/gradio_api/upload")


def main():
    args = parse_arguments()
    with open(args.data_file, encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    random.Random(0).shuffle(texts)
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "app", "--model_dir", args.model_dir, "--port", str(port)]
        app = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            results = uvloop.run(measure(port, texts, args))
        finally:
            app.terminate()
            app.wait(20)
        log.seek(0)
        results["tracebacks"] = log.read().count(b"Traceback")
    text = json.dumps(results, indent=2)
    (ROOT / "docs" / "results" / f"{args.name}.json").write_text(text + "\n")
    print(text)


def make_bodies(texts: list[str], size: int) -> list[bytes]:
    """Bodies of requests with that many texts each."""
    if size == 1:
        return [json.dumps({"text": text}).encode() for text in texts]
    return [json.dumps({"texts": texts[i : i + size]}).encode() for i in range(0, len(texts) - size + 1, size)]


async def measure(port: int, texts: list[str], args: argparse.Namespace) -> dict:
    """Everything that is measured on the running app."""
    model = load_model(args.model_dir)
    await wait_until_up(port)
    load = [await measure_load(port, model, texts, size, args) for size in TEXTS_A_REQUEST]
    memory = [await resident_megabytes(port)]
    for _ in range(10):
        await run_clients(port, make_bodies(texts, 1), args.clients, count=args.requests // 10)
        memory.append(await resident_megabytes(port))
    return {
        "command": " ".join(["python", *sys.argv]),
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "memory": {"requests": args.requests, "resident_mb_every_tenth": memory},
        "fuzz": await fuzz(port, args),
    }


async def measure_load(port: int, model: Model, texts: list[str], size: int, args: argparse.Namespace) -> dict:
    """Latency and throughput under the clients' load, and what of the machine the clients themselves take."""
    bodies, cores = make_bodies(texts, size), len(os.sched_getaffinity(0))
    start = await read_metrics(port)
    await run_clients(port, bodies, args.clients, seconds=5)  # warm-up
    texts_a_batch = batch_size_since(start, await read_metrics(port))
    # Nobody asks the app while the model runs here.
    bare = [measure_bare_model(model, texts, texts_a_batch, args)]
    start, clients_seconds = await read_metrics(port), -time.process_time()
    taken, statuses = await run_clients(port, bodies, args.clients, seconds=args.seconds)
    clients_seconds += time.process_time()
    texts_a_batch = batch_size_since(start, await read_metrics(port))
    bare.append(measure_bare_model(model, texts, texts_a_batch, args))
    milliseconds, texts_per_second = 1000 * np.array(taken), size * len(taken) / args.seconds
    return {
        "clients": args.clients,
        "texts_a_request": size,
        "seconds": args.seconds,
        "requests": len(taken),
        "errors": sum(count for status, count in statuses.items() if status != 200),
        "texts_per_second": texts_per_second,
        "texts_a_batch": texts_a_batch,
        "bare_texts_per_second": bare,
        "share_of_bare": texts_per_second / np.mean(bare),
        "clients_share_of_cores": clients_seconds / args.seconds / cores,
        "p50_ms": np.percentile(milliseconds, 50),
        "p95_ms": np.percentile(milliseconds, 95),
        "p99_ms": np.percentile(milliseconds, 99),
    }


def batch_size_since(before: dict[str, float], after: dict[str, float]) -> float:
    """Texts that the app has run together on average, from two readings of its statistics."""
    texts, batches = (
        sum(value for name, value in after.items() if name.startswith(prefix))
        - sum(value for name, value in before.items() if name.startswith(prefix))
        for prefix in ("classified_texts_total", "batch_size_count")
    )
    return texts / batches


async def run_clients(
    port: int, bodies: list[bytes], clients: int, seconds: float | None = None, count: int | None = None
) -> tuple[list[float], Counter]:
    """Clients that each ask again as soon as they are answered, for a time or for a number of requests in all.

    Returns:
        Seconds of every request, and how often each status came.
    """
    deadline = time.perf_counter() + (seconds or 1e9)
    taken, statuses, asked = [], Counter(), 0

    async def client() -> None:
        nonlocal asked
        reader, writer = await asyncio.open_connection(HOST, port)
        while time.perf_counter() < deadline and (count is None or asked < count):
            body = bodies[asked % len(bodies)]
            asked += 1
            start = time.perf_counter()
            writer.write(request_head(len(body)) + body)
            status = await read_response(reader)
            taken.append(time.perf_counter() - start)
            statuses[status] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return taken, statuses


def request_head(length: int, path: str = "/api/classify", method: str = "POST") -> bytes:
    """As few bytes as HTTP allows: what the clients take, the app cannot have."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def read_response(reader: asyncio.StreamReader) -> int:
    """The status of a response; its body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length:
        await reader.readexactly(int(length[1]))
    return int(head.split(None, 2)[1])


async def read_metrics(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request_head(0, "/metrics", "GET").replace(b"Host", b"Connection: close\r\nHost"))
    text = (await reader.read()).decode()
    writer.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}


async def resident_megabytes(port: int) -> float:
    return (await read_metrics(port))["process_resident_memory_bytes"] / 1e6


async def wait_until_up(port: int) -> None:
    for _ in range(600):
        try:
            await read_metrics(port)
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise TimeoutError("The app has not come up within a minute.")


async def fuzz(port: int, args: argparse.Namespace) -> dict:
    """Sends hostile bodies and counts what comes back; the app must answer an ordinary text afterwards."""
    generator = random.Random(0)
    requests = [(generator.choice(FUZZED_PATHS), hostile_body(generator)) for _ in range(args.hostile)]
    statuses = Counter()

    async def client(own: list[tuple[str, bytes]]) -> None:
        for path, body in own:
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                is_cut = len(body) % 50 == 7  # announces more than it sends, and hangs up
                writer.write(request_head(len(body) + 10 * is_cut, path))
                writer.write(body)
                if is_cut:
                    statuses["hung up"] += 1
                    continue
                statuses[await asyncio.wait_for(read_response(reader), 30)] += 1
            except (asyncio.IncompleteReadError, ConnectionError):
                statuses["closed"] += 1
            finally:
                writer.close()

    await asyncio.gather(*(client(requests[i :: args.clients]) for i in range(args.clients)))
    _, ordinary = await run_clients(port, [b'{"text": "hello"}'], 1, count=1)
    server_errors = sum(count for status, count in statuses.items() if str(status)[0] == "5" and status != 503)
    return {
        "bodies": len(requests),
        "answers": {str(status): count for status, count in sorted(statuses.items(), key=str)},
        "server_errors_but_503": server_errors,
        "answers_afterwards": ordinary[200] == 1,
    }


def hostile_body(generator: random.Random) -> bytes:
    """Bodies like real ones with something wrong in them, noise, and now and then a huge or a deep one."""
    values = [
        *(None, True, -1, 1e308, "", " ", "a", "a" * 6000, "\u202e🙂\x00", "<script>", "\x1b[2J", ["a"], [], {}, [[]]),
        *(["a"] * 300, ["a" * 5000] * 100, {"text": "a"}, ["", None, 3], "=cmd|' /C calc'!A0", "é" * 4999),
    ]
    keys = ["text", "texts", "model", "", "Text", "__proto__", "\ud800", "texts.0", "x" * 500]
    form = generator.random()
    if form < 0.02:
        return generator.choice((b"[", b'{"text":')) * generator.randint(1, 50_000)
    if form < 0.03:
        return b" " * generator.randint(900_000, 1_100_000)
    if form < 0.15:
        return generator.randbytes(generator.randint(0, 3000))
    body = {generator.choice(keys): generator.choice(values) for _ in range(generator.randint(0, 3))}
    raw = bytearray(json.dumps(generator.choice((body, {"text": generator.choice(values)}))).encode())
    for _ in range(generator.choice((0, 0, 1, 5))):
        raw.insert(generator.randint(0, len(raw)), generator.randrange(256))
    return bytes(raw[: generator.randint(0, len(raw))] if generator.random() < 0.1 else raw)


def measure_bare_model(model: Model, texts: list[str], batch_size: float, args: argparse.Namespace) -> float:
    """Texts a second of the model without server and clients, tokenising included, in batches of one size.

    As in the app, a batch holds the most similar in length among as many texts as there are clients.
    """
    size, workers = max(1, round(batch_size)), len(os.sched_getaffinity(0))
    groups = [sorted(texts[i : i + args.clients], key=len) for i in range(0, len(texts), args.clients)]
    batches = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
    deadline = time.perf_counter() + args.seconds / 4

    def work(worker: int) -> int:
        done, index = 0, worker
        while time.perf_counter() < deadline:
            batch = batches[index % len(batches)]
            model.classify(batch)
            done, index = done + len(batch), index + workers
        return done

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as executor:
        done = sum(executor.map(work, range(workers)))
    return done / (time.perf_counter() - start)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="as for the app")
    parser.add_argument("--data_file", required=True, help="csv file with a column text")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=10_000, help="while memory is watched")
    parser.add_argument("--hostile", type=int, default=10_000, help="bodies of the fuzz run")
    parser.add_argument("--name", default="load", help="of the result file")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as the app has it
    main()
