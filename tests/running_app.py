"""Starts the app as people do, as a process of its own, and stops it again."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.forked_runs import ROOT, free_port

WATCHED_APP = ROOT / "tests" / "workers" / "watched_app.py"


@dataclass
class RunningApp:
    """A process of the app.

    Attributes:
        folder: where it keeps temporary files, and the test the two files below.
        log: what it has printed.
        connections: the addresses that it has connected to or looked up, if it is a `WATCHED_APP`.
    """

    process: subprocess.Popen
    url: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def connections(self) -> list[str]:
        file = self.folder / "connections.txt"
        return file.read_text().splitlines() if file.is_file() else []

    @property
    def temporary_files(self) -> list[Path]:
        return [path for path in (self.folder / "tmp").rglob("*") if path.is_file()]


@contextmanager
def running_app(folder: Path, command: Sequence[str | Path], cwd: Path = ROOT) -> Iterator[RunningApp]:
    """Runs `python COMMAND --port PORT` in `cwd` until the block ends; its files go to `folder`."""
    port = free_port()
    (folder / "tmp").mkdir()
    environment = os.environ | {
        "TMPDIR": str(folder / "tmp"),
        "CONNECTIONS": str(folder / "connections.txt"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(cwd),
    }
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, command), "--port", str(port)], cwd=cwd, env=environment, stdout=log, stderr=log
        )
    app = RunningApp(process, f"http://127.0.0.1:{port}", folder)
    try:
        _wait_until_up(app)
        yield app
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _wait_until_up(app: RunningApp) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert app.process.poll() is None, app.log
        try:
            urllib.request.urlopen(f"{app.url}/healthz", timeout=5)
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(app.log)
