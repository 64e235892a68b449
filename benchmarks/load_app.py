"""The app under many users at once, under hostile requests, and in long use; on this machine, over the loopback.

    python -m benchmarks.load_app --model_dir outputs/toxic_comments-odd --data_file test.csv

starts `python -m app` with the int8 model and then measures, one after the other:

1. 50 concurrent clients for a minute, each of which asks again as soon as it is answered: with one text a request,
   then with four. Before and after, because the pace of a machine changes, the model without the app: its throughput
   in batches of the size that the app forms under load, on as many threads as the app uses;
2. memory over 10,000 further requests;
3. the same clients in the form of the Perspective API, for a minute;
4. 10,000 hostile bodies, some of them broken off or too large;
5. the tokenizer alone, and the app with an empty model (`benchmarks/empty_app.py`), one text a request.

The figures go to `docs/results/NAME.json`. The clients run on the same machine as the app, so app, clients and model
are also compared by processor time for a text, which does not depend on who else has the cores.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, NamedTuple

import numpy as np
import uvloop
from tokenizers import Tokenizer

from app.models import Model, load_model
from benchmarks.results import RESULTS, ROOT

HOST = "127.0.0.1"
TEXTS_A_REQUEST = (1, 4)
CLASSIFY_PATH = "/api/classify"
CPU_SECONDS = "process_cpu_seconds_total"
PERSPECTIVE_PATH = "/v1alpha1/comments:analyze"
# Most of the hostile bodies go to the APIs, the others to the two Gradio routes that the page uses.
FUZZED_PATHS = 4 * (CLASSIFY_PATH, PERSPECTIVE_PATH) + ("/gradio_api/queue/join", "/gradio_api/upload")


class Pace(NamedTuple):
    """How quickly texts are answered without the app."""

    texts_per_second: float
    cpu_ms_a_text: float


def main():
    args = parse_arguments()
    with open(args.data_file, encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    random.Random(0).shuffle(texts)
    with tempfile.TemporaryFile() as log:
        with running("app", args.model_dir, log) as port:
            results = uvloop.run(measure(port, texts, args))
        with running("benchmarks.empty_app", args.model_dir, log) as port:
            results["without_model"] = uvloop.run(measure_without_model(port, texts, args))
        log.seek(0)
        results["tracebacks"] = log.read().count(b"Traceback")
    text = json.dumps(results, indent=2)
    (RESULTS / f"{args.name}.json").write_text(text + "\n")
    print(text)


@contextmanager
def running(module: str, model_dir: str, log: IO[bytes]) -> Iterator[int]:
    """Runs an app in a process of its own until the block ends, and gives its port."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "--model_dir", model_dir, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


def make_bodies(texts: list[str], size: int) -> list[bytes]:
    """Returns bodies of requests with `size` texts each."""
    if size == 1:
        return [json.dumps({"text": text}).encode() for text in texts]
    return [json.dumps({"texts": texts[i : i + size]}).encode() for i in range(0, len(texts) - size + 1, size)]


async def measure(port: int, texts: list[str], args: argparse.Namespace) -> dict:
    """Measures load, memory and hostile requests on the running app."""
    model = load_model(args.model_dir)
    await wait_until_up(port)
    load = [await measure_load(port, model, texts, size, args) for size in TEXTS_A_REQUEST]
    memory = [await resident_megabytes(port)]
    for _ in range(10):
        await run_clients(port, make_bodies(texts, 1), args.clients, count=args.requests // 10)
        memory.append(await resident_megabytes(port))
    return {
        "command": " ".join(["python -m benchmarks.load_app", *sys.argv[1:]]),
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "perspective": await measure_perspective(port, texts, args),
        "memory": {"requests": args.requests, "resident_mb_every_tenth": memory},
        "fuzz": await fuzz(port, args),
    }


async def measure_load(port: int, model: Model, texts: list[str], size: int, args: argparse.Namespace) -> dict:
    """Measures latency and throughput under the clients' load, and the clients' own share of the cores."""
    bodies = make_bodies(texts, size)
    start = await read_metrics(port)
    await run_clients(port, bodies, args.clients, seconds=5)  # warm-up
    texts_a_batch = batch_size_since(start, await read_metrics(port))
    # The app is idle while the model runs here.
    bare = [measure_alone(model.classify, texts, texts_a_batch, args)]
    start, clients_seconds = await read_metrics(port), -time.process_time()
    taken, statuses = await run_clients(port, bodies, args.clients, seconds=args.seconds)
    clients_seconds += time.process_time()
    end = await read_metrics(port)
    texts_a_batch = batch_size_since(start, end)
    bare.append(measure_alone(model.classify, texts, texts_a_batch, args))
    num_texts, milliseconds = size * len(taken), 1000 * np.array(taken)
    bare_per_second, bare_cpu_ms = np.mean(bare, axis=0)
    return {
        "clients": args.clients,
        "texts_a_request": size,
        "seconds": args.seconds,
        "requests": len(taken),
        "errors": sum(count for status, count in statuses.items() if status != 200),
        "texts_per_second": num_texts / args.seconds,
        "texts_a_batch": texts_a_batch,
        "bare_texts_per_second": [pace.texts_per_second for pace in bare],
        "share_of_bare": num_texts / args.seconds / bare_per_second,
        "cpu_ms_a_text": {
            "app": 1000 * (end[CPU_SECONDS] - start[CPU_SECONDS]) / num_texts,
            "clients": 1000 * clients_seconds / num_texts,
            "bare": bare_cpu_ms,
        },
        "p50_ms": np.percentile(milliseconds, 50),
        "p95_ms": np.percentile(milliseconds, 95),
        "p99_ms": np.percentile(milliseconds, 99),
    }


async def measure_perspective(port: int, texts: list[str], args: argparse.Namespace) -> dict:
    """Measures latency and throughput in the form of the Perspective API."""
    attribute = {"requestedAttributes": {"TOXICITY": {}}, "languages": ["en"]}
    bodies = [json.dumps({"comment": {"text": text}, **attribute}).encode() for text in texts]
    taken, statuses = await run_clients(port, bodies, args.clients, seconds=args.seconds, path=PERSPECTIVE_PATH)
    return {
        "clients": args.clients,
        "seconds": args.seconds,
        "requests": len(taken),
        "errors": sum(count for status, count in statuses.items() if status != 200),
        "texts_per_second": len(taken) / args.seconds,
        "p50_ms": np.percentile(taken, 50) * 1000,
        "p95_ms": np.percentile(taken, 95) * 1000,
    }


async def measure_without_model(port: int, texts: list[str], args: argparse.Namespace) -> dict:
    """Measures the app with an empty model, one text a request, and the tokenizer without the app."""
    bodies = make_bodies(texts, 1)
    tokenizer = Tokenizer.from_file(str(load_model(args.model_dir).folder / "tokenizer.json"))
    await wait_until_up(port)
    await run_clients(port, bodies, args.clients, seconds=1)  # warm-up
    start = await read_metrics(port)
    taken, _ = await run_clients(port, bodies, args.clients, seconds=args.seconds / 4)
    cpu_seconds = (await read_metrics(port))[CPU_SECONDS] - start[CPU_SECONDS]
    return {
        "app_with_empty_model": Pace(4 * len(taken) / args.seconds, 1000 * cpu_seconds / len(taken))._asdict(),
        "tokenizer_alone": measure_alone(tokenizer.encode_batch, texts, 1, args)._asdict(),
    }


def batch_size_since(before: dict[str, float], after: dict[str, float]) -> float:
    """Returns the mean number of texts in the app's batches, from two readings of its statistics."""
    texts, batches = (
        sum(value for name, value in after.items() if name.startswith(prefix))
        - sum(value for name, value in before.items() if name.startswith(prefix))
        for prefix in ("classified_texts_total", "batch_size_count")
    )
    return texts / batches


async def run_clients(
    port: int,
    bodies: list[bytes],
    clients: int,
    seconds: float | None = None,
    count: int | None = None,
    path: str = CLASSIFY_PATH,
) -> tuple[list[float], Counter]:
    """Runs clients that each ask again as soon as they are answered, for a time or for a total number of requests.

    Returns:
        Seconds of every request, and the number of answers by status.
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
            writer.write(request_head(len(body), path) + body)
            status = await read_response(reader)
            taken.append(time.perf_counter() - start)
            statuses[status] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return taken, statuses


def request_head(length: int, path: str = CLASSIFY_PATH, method: str = "POST") -> bytes:
    """Returns a head of as few bytes as HTTP allows, because clients and app share the cores."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def read_response(reader: asyncio.StreamReader) -> int:
    """Reads a response, drops its body and returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length:
        await reader.readexactly(int(length[1]))
    return int(head.split(None, 2)[1])


async def read_metrics(port: int) -> dict[str, float]:
    """Returns the app's statistics (`GET /metrics`) by name."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request_head(0, "/metrics", "GET").replace(b"Host", b"Connection: close\r\nHost"))
    text = (await reader.read()).decode()
    writer.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}


async def resident_megabytes(port: int) -> float:
    return (await read_metrics(port))["process_resident_memory_bytes"] / 1e6


async def wait_until_up(port: int) -> None:
    """Waits until the app answers.

    Raises:
        TimeoutError: it has not answered within a minute.
    """
    for _ in range(600):
        try:
            await read_metrics(port)
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise TimeoutError("The app has not come up within a minute.")


async def fuzz(port: int, args: argparse.Namespace) -> dict:
    """Sends hostile bodies, counts the answers, and checks that the app still answers an ordinary text."""
    generator = random.Random(0)
    requests = [(generator.choice(FUZZED_PATHS), hostile_body(generator)) for _ in range(args.hostile)]
    statuses = Counter()

    async def client(share: list[tuple[str, bytes]]) -> None:
        for path, body in share:
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
    """Returns a body like a real one with something wrong in it, or noise, or a very large or deeply nested one."""
    values = [
        None,
        True,
        -1,
        1e308,
        "",
        " ",
        "a",
        "a" * 6000,
        "\u202e🙂\x00",
        "<script>",
        "\x1b[2J",
        ["a"],
        [],
        {},
        [[]],
        ["a"] * 300,
        ["a" * 5000] * 100,
        {"text": "a"},
        {"TOXICITY": {"scoreThreshold": "a"}},
        ["", None, 3],
        "=cmd|' /C calc'!A0",
        "é" * 4999,
    ]
    keys = [
        "text",
        "texts",
        "model",
        "comment",
        "requestedAttributes",
        "languages",
        "",
        "Text",
        "__proto__",
        "\ud800",
        "texts.0",
        "x" * 500,
    ]
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


def measure_alone(
    classify: Callable[[Sequence[str]], list], texts: list[str], batch_size: float, args: argparse.Namespace
) -> Pace:
    """Measures a model without server and clients, tokenizing included, or the tokenizer.

    All batches have one size. As in the app, the texts of a batch are those of similar length among as many texts as
    there are clients.
    """
    size, workers = max(1, round(batch_size)), len(os.sched_getaffinity(0))
    groups = [sorted(texts[i : i + args.clients], key=len) for i in range(0, len(texts), args.clients)]
    batches = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
    deadline = time.perf_counter() + args.seconds / 4

    def work(worker: int) -> int:
        done, index = 0, worker
        while time.perf_counter() < deadline:
            batch = batches[index % len(batches)]
            classify(batch)
            done, index = done + len(batch), index + workers
        return done

    start, cpu_start = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(workers) as executor:
        done = sum(executor.map(work, range(workers)))
    return Pace(done / (time.perf_counter() - start), 1000 * (time.process_time() - cpu_start) / done)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="folder of the exported model, as for `python -m app`")
    parser.add_argument("--data_file", required=True, help="csv file with a column text, for the requests")
    parser.add_argument("--clients", type=int, default=50, help="clients that ask at the same time")
    parser.add_argument("--seconds", type=float, default=60, help="length of each measurement under load")
    parser.add_argument("--requests", type=int, default=10_000, help="requests while memory is watched")
    parser.add_argument("--hostile", type=int, default=10_000, help="number of hostile bodies")
    parser.add_argument("--name", default="load", help="name of the result file")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as the app has it
    main()
