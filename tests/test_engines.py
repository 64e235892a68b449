"""The same result whatever engine trains: one process, DDP, DeepSpeed ZeRO-2 and ZeRO-3, FSDP2."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from layer_mapping import build_random_student, build_student
from tests.engine_runs import ENGINES, measure_memory, results, save_teachers, train_under, trained_weights
from tests.workers.engine_worker import METHODS
from tests.workers.train_worker import pad, random_examples


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    save_teachers(folder)
    return folder


@pytest.fixture(scope="module")
def launch(tmp_path_factory, teachers):
    """Trains under an engine, once, and returns the folder."""
    folders, runs = {}, {}

    def launch_once(engine):
        if engine not in folders:
            folders[engine] = tmp_path_factory.mktemp(engine.replace(" ", "_"))
            runs[engine] = train_under(engine, teachers, folders[engine])
        assert runs[engine].returncode == 0, runs[engine].stderr[-6000:]
        return folders[engine]

    return launch_once


# Accumulation on one process is in `test_distill_trainer.py`.
every_engine = pytest.mark.parametrize("engine", [name for name in ENGINES if ENGINES[name][0] > 1])


@pytest.mark.distributed
@every_engine
def test_ten_steps_are_those_of_one_process(launch, engine):
    for method in METHODS:
        ours, reference = results(launch(engine), method), results(launch("one process"), method)
        assert len(ours["steps"]) == 10
        assert ours["engine"] == {"ZeRO-2": "DEEPSPEED", "ZeRO-3": "DEEPSPEED", "FSDP2": "FSDP"}.get(
            engine, "MULTI_CPU"
        )
        for step, expected in zip(ours["steps"], reference["steps"], strict=True):
            # A KL of 0.006 is the difference of numbers around 1, which float32 rounds at 1e-7.
            assert step == pytest.approx(expected, rel=1e-5, abs=1e-5), method
        assert ours["train"] == pytest.approx(reference["train"], rel=1e-5), method
        assert ours["eval_loss"] == pytest.approx(reference["eval_loss"], rel=1e-5), method
        weights, expected = (trained_weights(launch(name), method) for name in (engine, "one process"))
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            assert (weight - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-7, (method, name)


@pytest.mark.distributed
@every_engine
def test_every_process_builds_the_student_that_one_would_bit_for_bit(launch, teachers, engine):
    for name in ("bert", "llama", "random"):
        teacher = AutoModelForSequenceClassification.from_pretrained(teachers / name.replace("random", "llama"))
        torch.manual_seed(0)
        student = build_random_student(teacher, 2) if name == "random" else build_student(teacher, [3, 1])
        expected = student.state_dict()
        files = sorted(launch(engine).glob(f"{name}_*.pt"))
        assert len(files) == ENGINES[engine][0]
        for file in files:
            built = torch.load(file)
            assert built.keys() == expected.keys()
            assert all(torch.equal(built[key], expected[key]) for key in expected), file


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
def test_weights_are_shared_out_and_the_teacher_is_frozen_and_rests_in_evaluation(launch, engine):
    found = results(launch(engine), "distillation")
    shared_out = engine in ("ZeRO-3", "FSDP2")
    assert found["is_sharded"] == shared_out
    assert found["teacher"] == {
        "is_sharded": shared_out,
        "is_training": False,
        "is_unchanged": True,
        "forwards_in_evaluation": 0,
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_zero3_needs_less_memory_than_ddp_for_a_model_of_bert_bases_size(tmp_path):
    peaks = {engine: measure_memory(engine, tmp_path) for engine in ("DDP", "ZeRO-3")}
    print(f"Peak memory of a process in MB: {peaks}")
    assert peaks["ZeRO-3"] < 0.9 * peaks["DDP"]
