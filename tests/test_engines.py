"""The same result whatever engine trains: one process, DDP, DeepSpeed ZeRO-2 and ZeRO-3, FSDP2."""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import yaml
from engine_worker import METHODS
from safetensors.torch import load_file
from tiny_models import TINY_CLASSIFIERS
from train_worker import bert, pad, random_examples
from transformers import AutoModelForSequenceClassification

from layer_mapping import build_student

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "tests" / "workers" / "engine_worker.py"
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


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    bert(3).save_pretrained(folder / "bert")
    TINY_CLASSIFIERS["distilbert"](3, 3).save_pretrained(folder / "distilbert")
    return folder


@pytest.fixture(scope="module")
def launch(tmp_path_factory, teachers):
    """Runs the worker under an engine, once, and returns its folder."""
    folders, processes = {}, {}

    def launch_once(engine):
        if engine not in folders:
            folders[engine] = folder = tmp_path_factory.mktemp(engine.replace(" ", "_"))
            launcher, arguments = ENGINES[engine]
            # The user's configuration, but for processors.
            config = yaml.safe_load((ROOT / "examples" / "fsdp2.yaml").read_text()) | {"use_cpu": True}
            (folder / "fsdp2.yaml").write_text(yaml.safe_dump(config))
            command = [sys.executable, *(["-m"] if launcher else []), *launcher, WORKER, teachers, folder, *arguments]
            environment = os.environ | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
            run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            processes[engine] = run
        assert processes[engine].returncode == 0, processes[engine].stderr[-6000:]
        return folders[engine]

    return launch_once


def results(folder, method):
    return json.loads((folder / f"{method}.json").read_text())


def trained_weights(folder, method):
    (file,) = (folder / method).glob("*.safetensors")
    return load_file(file)


every_engine = pytest.mark.parametrize("engine", list(ENGINES)[1:])
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.distributed
@every_engine
@every_method
def test_ten_steps_are_those_of_one_process(launch, engine, method):
    ours, reference = results(launch(engine), method), results(launch("one process"), method)
    assert len(ours["steps"]) == 10
    assert ours["engine"] == {"ZeRO-2": "DEEPSPEED", "ZeRO-3": "DEEPSPEED", "FSDP2": "FSDP"}.get(
        engine, "MULTI_CPU" if "DDP" in engine else "NO"
    )
    for step, expected in zip(ours["steps"], reference["steps"], strict=True):
        # A KL of 0.006 is the difference of numbers around 1, which float32 rounds at 1e-7.
        assert step == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert ours["train"] == pytest.approx(reference["train"], rel=1e-5)
    assert ours["eval_loss"] == pytest.approx(reference["eval_loss"], rel=1e-5)
    weights, expected = (trained_weights(launch(name), method) for name in (engine, "one process"))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert (weight - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-7, name


@pytest.mark.distributed
@every_engine
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_every_process_builds_the_student_that_one_would_bit_for_bit(launch, teachers, engine, name):
    teacher = AutoModelForSequenceClassification.from_pretrained(teachers / name)
    expected = build_student(teacher, [3, 1]).state_dict()
    files = sorted(launch(engine).glob(f"{name}_*.pt"))
    assert len(files) == (2 if ENGINES[engine][0] else 1)
    for file in files:
        student = torch.load(file)
        assert student.keys() == expected.keys()
        assert all(torch.equal(student[key], expected[key]) for key in expected)


@pytest.mark.distributed
@every_engine
def test_the_saved_student_gives_its_logits_in_plain_transformers_and_holds_nothing_else(launch, engine):
    folder = launch(engine)
    student = AutoModelForSequenceClassification.from_pretrained(folder / "distillation").eval()
    assert trained_weights(folder, "distillation").keys() == student.state_dict().keys()
    with torch.no_grad():
        inputs = pad([{k: v for k, v in row.items() if k != "labels"} for row in random_examples(13, seed=1)])
        logits = student(**inputs).logits
    torch.testing.assert_close(logits, torch.tensor(results(folder, "distillation")["predictions"]))


@pytest.mark.distributed
@every_engine
def test_the_teacher_is_frozen_and_rests_in_evaluation(launch, engine):
    assert results(launch(engine), "distillation")["teacher"] == {
        "is_sharded": engine in ("ZeRO-3", "FSDP2"),
        "is_training": False,
        "is_unchanged": True,
        "forwards_in_evaluation": 0,
    }
