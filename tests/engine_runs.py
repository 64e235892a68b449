"""Runs the workers of `tests/workers` under every engine, for the tests and for `benchmarks/engines.py`."""

import json
import subprocess
import sys

import yaml
from safetensors.torch import load_file

from experiments.tiny_classifiers import tiny_classifier
from tests.forked_runs import ROOT, environment_of_processes, run_forked
from tests.tiny_models import VOCAB_SIZE
from tests.workers.train_worker import bert

WORKERS = ROOT / "tests" / "workers"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ZERO2 = ("--deepspeed", ROOT / "ds_config.json")
ZERO3 = ("--deepspeed", ROOT / "examples" / "ds_zero3.json")
# Number of processes and options of the worker.
ENGINES = {
    "one process": (1, ()),
    "accumulation": (1, ("--accumulation", "4")),
    "DDP": (2, ()),
    "DDP with accumulation": (2, ("--accumulation", "2")),
    "ZeRO-2": (2, ZERO2),
    "ZeRO-3": (2, ZERO3),
    "FSDP2": (2, ()),
}


def save_teachers(folder):
    bert(3).save_pretrained(folder / "bert")
    tiny_classifier("llama", num_hidden_layers=3, vocab_size=VOCAB_SIZE).save_pretrained(folder / "llama")


def train_under(engine, teachers, folder):
    """`engine_worker.py`: results and weights of every method go to the folder."""
    num_processes, options = ENGINES[engine]
    if engine == "FSDP2":
        # The user's configuration, but for processors.
        config = yaml.safe_load((ROOT / "examples" / "fsdp2.yaml").read_text())
        (folder / "fsdp2.yaml").write_text(yaml.safe_dump(config | {"use_cpu": True, "mixed_precision": "no"}))
        launcher = ("-m", "accelerate.commands.launch", "--config_file", folder / "fsdp2.yaml")
        return _run([*launcher, WORKERS / "engine_worker.py", teachers, folder])
    worker = WORKERS / "engine_worker.py"
    return run_forked(worker, teachers, folder, *options, num_processes=num_processes)


def measure_memory(engine, folder):
    """`memory_worker.py`: the peak memory of the larger process in MB."""
    options = ENGINES[engine][1]
    # So that the C library hands what is freed back to the system, and the peak is that of what is in use.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    run = _run([*TORCHRUN, WORKERS / "memory_worker.py", folder / "peak.json", *options], environment)
    assert run.returncode == 0, run.stderr[-6000:]
    return max(json.loads((folder / "peak.json").read_text())["peak_mb"])


def _run(command, environment=()):
    environment = environment_of_processes() | dict(environment)
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


def results(folder, method):
    return json.loads((folder / f"{method}.json").read_text())


def trained_weights(folder, method):
    (file,) = (folder / method).glob("*.safetensors")
    return load_file(file)
