"""Runs the workers of `tests/workers` under every engine, for the tests and for `benchmarks/engines.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file

from tests.tiny_models import TINY_CLASSIFIERS
from tests.workers.train_worker import bert

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ROOT / "tests" / "workers"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
# Module to launch with, and arguments of the worker.
ENGINES = {
    "one process": ((), ()),
    "accumulation": ((), ("--accumulation", "4")),
    "DDP": (TORCHRUN, ()),
    "DDP with accumulation": (TORCHRUN, ("--accumulation", "2")),
    "ZeRO-2": (TORCHRUN, ("--deepspeed", ROOT / "ds_config.json")),
    "ZeRO-3": (TORCHRUN, ("--deepspeed", ROOT / "examples" / "ds_zero3.json")),
    "FSDP2": (("accelerate.commands.launch", "--config_file", "fsdp2.yaml"), ()),
}


def save_teachers(folder):
    bert(3).save_pretrained(folder / "bert")
    TINY_CLASSIFIERS["distilbert"](3, 3).save_pretrained(folder / "distilbert")


def train_under(engine, teachers, folder):
    """`engine_worker.py`: results and weights of every method go to the folder."""
    # The user's configuration, but for processors.
    config = yaml.safe_load((ROOT / "examples" / "fsdp2.yaml").read_text()) | {
        "use_cpu": True,
        "mixed_precision": "no",
    }
    (folder / "fsdp2.yaml").write_text(yaml.safe_dump(config))
    return _run(engine, "engine_worker.py", [teachers, folder], folder)


def measure_memory(engine, folder):
    """`memory_worker.py`: the peak memory of the larger process in MB."""
    # So that the C library hands what is freed back to the system, and the peak is that of what is in use.
    run = _run(engine, "memory_worker.py", [folder / "peak.json"], folder, MALLOC_MMAP_THRESHOLD_="65536")
    assert run.returncode == 0, run.stderr[-6000:]
    return max(json.loads((folder / "peak.json").read_text())["peak_mb"])


def _run(engine, worker, arguments, folder, **environment):
    launcher, options = ENGINES[engine]
    command = [sys.executable, *(["-m"] if launcher else []), *launcher, WORKERS / worker, *arguments, *options]
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def results(folder, method):
    return json.loads((folder / f"{method}.json").read_text())


def trained_weights(folder, method):
    (file,) = (folder / method).glob("*.safetensors")
    return load_file(file)
