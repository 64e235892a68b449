"""Runs scripts in forks of itself, which have the imports behind them. Started by `tests/forked_runs.py`.

Reads a request a line: a JSON object with `script`, `arguments`, `output` (the folder for stdout and stderr) and
`environments`, one for each process of the run. Once all have ended it writes the line `exit codes [0, 0]`, in the
order in which they ended. As with `torchrun`, the first that fails ends the others.
"""

import gc
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import datasets
import deepspeed.ops
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert  # noqa: F401

import run_comparison  # noqa: F401
import run_lora  # noqa: F401

TIME_LIMIT = 580


def serve():
    """Returns in the forks only, with the request and the environment of their process."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        processes = []
        for environment in request["environments"]:
            process = os.fork()
            if process == 0:
                return request, environment
            processes.append(process)
        print("exit codes", json.dumps(exit_codes(processes)), flush=True)
    sys.exit()


def exit_codes(processes):
    codes, deadline = [], time.monotonic() + TIME_LIMIT
    while processes:
        for process in processes[:]:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                processes.remove(process)
                codes.append(os.waitstatus_to_exitcode(status))
        if any(codes) or time.monotonic() > deadline:
            for process in processes:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    return codes


def run(request, environment):
    names = {1: Path(request["output"], "stdout"), 2: Path(request["output"], "stderr")}
    for number, name in names.items():
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    # Read from the environment when it was imported.
    datasets.config.HF_DATASETS_CACHE = datasets.config.DEFAULT_HF_CACHE_HOME = environment["HF_DATASETS_CACHE"]
    # Otherwise DeepSpeed compiles a part of itself for processors, for minutes; without it gloo does the same.
    deepspeed.ops.__compatible_ops__ = {}
    sys.argv = [request["script"], *request["arguments"]]
    runpy.run_path(request["script"], run_name="__main__")


if __name__ == "__main__":
    gc.freeze()
    run(*serve())
