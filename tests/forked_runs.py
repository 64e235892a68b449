"""Runs scripts in processes of their own that are forked from one with the imports behind it.

The imports take longer than most of what is tested. The launchers themselves are tested with `run_process`.
"""

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def fork_server():
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "workers" / "fork_server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment_of_processes(),
        cwd=ROOT,
    )
    atexit.register(server.communicate)
    return server


def environment_of_processes():
    ours = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {"HF_DATASETS_CACHE": tempfile.gettempdir(), **os.environ, **ours}


def run_forked(script, *arguments, num_processes=1, **environment):
    """Runs a script as `python` does or, in several processes, as `torchrun` does."""
    environment = environment_of_processes() | environment
    environments = [environment]
    if num_processes > 1:
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_processes))
        environment |= sizes | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environments = [environment | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(num_processes)]
    server = fork_server()
    with tempfile.TemporaryDirectory() as output:
        request = {"script": str(script), "arguments": list(map(str, arguments)), "output": output}
        print(json.dumps(request | {"environments": environments}), file=server.stdin, flush=True)
        answer = next(line for line in server.stdout if line.startswith("exit codes "))  # libraries print as well
        codes = json.loads(answer.removeprefix("exit codes "))
        stdout, stderr = (Path(output, name).read_text() for name in ("stdout", "stderr"))
    # The first that fails is the reason for the others'.
    return subprocess.CompletedProcess([script, *arguments], next(filter(None, codes), 0), stdout, stderr)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
