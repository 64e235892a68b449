"""Tests of the commands on two processes, also under DeepSpeed and FSDP: the results are those of one process."""

import csv
import json
import os
import re
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_lora
from layer_mapping import build_student
from tests.forked_runs import free_port
from tests.script_runs import (
    MNLI,
    SCRIPT,
    TORCHRUN,
    predictions,
    read_record,
    results,
    run_elsewhere,
    run_here,
    run_process,
    table_of,
)

pytestmark = pytest.mark.usefixtures("script_caches")
WORKERS = Path(__file__).parent / "workers"
needs_mnli = pytest.mark.skipif(not MNLI.is_dir(), reason=f"HF_HOME holds no MNLI: {MNLI} does not exist")


# ---- MNLI ----


@pytest.fixture(scope="module")
def mnli_arguments(make_teacher):
    # Without dropout, which differs with the number of processes. The last batches are not full.
    teacher = make_teacher(["entailment", "neutral", "contradiction"], dropout=0.0)
    arguments = ["--teacher_name_or_path", teacher, "--task_name", "mnli", "--max_seq_length", "48"]
    arguments += ["--max_train_samples", "44", "--max_eval_samples", "61", "--num_train_epochs", "2"]
    return [*arguments, "--learning_rate", "1e-3", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def mnli_on_one_process(mnli_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnli") / "student"
    run_here(*mnli_arguments, "--output_dir", folder, "--per_device_train_batch_size", 8)
    return folder


@needs_mnli
def test_mnli_is_evaluated_on_both_validation_sets(mnli_on_one_process):
    every = results(mnli_on_one_process)
    assert len(predictions(mnli_on_one_process, "validation_matched")) == 61
    assert every["eval_loss"] != every["eval_loss_mm"]
    assert {"eval_accuracy", "eval_accuracy_mm"} <= every.keys()
    assert read_record(mnli_on_one_process)["data"]["source"] == "nyu-mll/glue mnli"
    table = table_of(mnli_on_one_process)
    assert "Validation accuracy" in table and "Mismatched accuracy" in table


@needs_mnli
@pytest.mark.distributed
def test_mnli_gives_the_same_on_two_processes_with_the_same_global_batch(
    mnli_arguments, mnli_on_one_process, tmp_path
):
    folder = tmp_path / "student"
    arguments = [*mnli_arguments, "--output_dir", folder, "--per_device_train_batch_size", 4]
    process = run_process(SCRIPT, *arguments, launcher=TORCHRUN)
    assert process.returncode == 0, process.stderr
    ours, reference = results(folder), results(mnli_on_one_process)
    for name in ("train_loss", "train_loss_ce", "train_loss_kl", "eval_loss", "eval_loss_mm"):
        assert ours[name] == pytest.approx(reference[name], rel=1e-4)
    for name in ("eval_accuracy", "eval_accuracy_mm"):
        assert ours[name] == pytest.approx(reference[name], abs=1.5 / 61)
    teachers = [read_record(path)["teacher"]["results"] for path in (folder, mnli_on_one_process)]
    assert teachers[0]["eval_accuracy_mm"] == teachers[1]["eval_accuracy_mm"]
    assert process.stdout.count("| teacher | ") == 1
    assert process.stderr.count(f"{read_record(folder)['teacher']['parameters']:,}") == 1


# ---- DeepSpeed ----


@pytest.fixture(scope="module")
def from_encoder(make_teacher, files):
    """Arguments of a run that fine-tunes its teacher first, without dropout."""
    encoder = make_teacher(["bad", "good"], dropout=0.0, encoder_only=True)
    arguments = ["--teacher_name_or_path", encoder, *files, "--num_train_epochs", "2", "--save_strategy", "no"]
    # Adam turns the rounding noise of gradients that are 0 into full steps otherwise.
    return [*arguments, "--adam_epsilon", "1e-5", "--learning_rate", "1e-3"]


@pytest.fixture(scope="module")
def from_encoder_on_one_process(from_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process") / "student"
    run_here(*from_encoder, "--output_dir", folder, "--per_device_train_batch_size", 8)
    return folder


def assert_same_teacher_and_student(folder, reference):
    ours, expected = read_record(folder), read_record(reference)
    for role in ("teacher", "student"):
        losses = {name: value for name, value in expected[role]["results"].items() if "loss" in name}
        assert len(losses) >= 3
        for name, value in losses.items():
            assert ours[role]["results"][name] == pytest.approx(value, rel=1e-4), (role, name)
    trained, expected = (load_file(path / "model.safetensors") for path in (folder, reference))
    assert trained.keys() == expected.keys()
    for name, weight in trained.items():
        assert (weight - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-5, name


@pytest.mark.distributed
@pytest.mark.parametrize("teacher_cache", ["true", "false"])
def test_teacher_and_student_trained_with_zero3_are_those_of_one_process(
    from_encoder, from_encoder_on_one_process, tmp_path, teacher_cache
):
    folder = tmp_path / "student"
    arguments = [*from_encoder, "--output_dir", folder, "--per_device_train_batch_size", 4]
    arguments += ["--deepspeed", SCRIPT.parent / "examples" / "ds_zero3.json", "--teacher_cache", teacher_cache]
    process = run_elsewhere(*arguments, num_processes=2)
    assert process.returncode == 0, process.stderr[-6000:]
    assert_same_teacher_and_student(folder, from_encoder_on_one_process)


@pytest.mark.slow
@pytest.mark.distributed
def test_deepspeeds_launcher_gives_the_same(from_encoder, from_encoder_on_one_process, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    folder = tmp_path / "student"
    arguments = [*from_encoder, "--output_dir", folder, "--per_device_train_batch_size", 4]
    arguments += ["--deepspeed", SCRIPT.parent / "ds_config.json"]
    launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", str(free_port())]
    process = run_process(WORKERS / "run_without_compiling.py", *arguments, launcher=launcher)
    assert process.returncode == 0, process.stderr[-6000:]
    assert "--local_rank" not in read_record(folder)["command"]
    assert_same_teacher_and_student(folder, from_encoder_on_one_process)


@pytest.mark.distributed
@pytest.mark.parametrize("configured_by", ["script", "launcher"])
def test_teacher_and_student_have_schedules_of_their_own_from_the_same_deepspeed_configuration(
    from_encoder, tmp_path, configured_by
):
    """What is "auto" in it is filled in with a training's own learning rate and steps, not with those of the first."""
    names = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps")
    scheduler = {"type": "WarmupDecayLR", "params": dict.fromkeys(names, "auto")}
    config = json.loads((SCRIPT.parent / "ds_config.json").read_text()) | {"scheduler": scheduler}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = [*from_encoder, "--output_dir", tmp_path / "student", "--logging_steps", 1]
    arguments += ["--per_device_train_batch_size", 4]
    if configured_by == "script":
        process = run_elsewhere(*arguments, "--deepspeed", tmp_path / "config.json", num_processes=2)
    else:  # what `accelerate launch --use_deepspeed --deepspeed_config_file` sets
        environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_CONFIG_DS_FIELDS": ""}
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(tmp_path / "config.json")
        process = run_elsewhere(*arguments, num_processes=2, **environment)
    assert process.returncode == 0, process.stderr[-6000:]
    rates = [float(rate) for rate in re.findall(r"'learning_rate': '?([-0-9.e]+)", process.stdout)]
    assert len(rates) == 15 + 10, "three epochs of the teacher's, two of the student's"
    assert max(rates[:15]) == pytest.approx(5e-5, rel=0.1)
    assert max(rates[15:]) == pytest.approx(1e-3, rel=0.1)


# ---- LoRA ----


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ZeRO-3", "FSDP2"])
def test_the_merged_checkpoint_of_a_sharded_run_has_the_logits_of_the_adapter_that_was_trained(
    teacher, files, tmp_path, engine
):
    folder, script, environment = tmp_path / "adapter", run_lora.__file__, {}
    arguments = ["--teacher_name_or_path", teacher, *files, "--output_dir", folder, "--layers", "4,2"]
    arguments += ["--num_train_epochs", 2, "--learning_rate", 0.01, "--save_strategy", "no", "--merge_adapter"]
    if engine == "ZeRO-3":
        arguments += ["--deepspeed", SCRIPT.parent / "examples" / "ds_zero3.json"]
    else:
        script = WORKERS / "lora_under_fsdp.py"
        config = yaml.safe_load((SCRIPT.parent / "examples" / "fsdp2.yaml").read_text())["fsdp_config"]
        environment = {name.upper(): str(value).lower() for name, value in config.items()}
        environment |= {"ACCELERATE_USE_FSDP": "true"}
    process = run_elsewhere(*arguments, script=script, num_processes=2, **environment)
    assert process.returncode == 0, process.stderr[-6000:]
    texts = [row["text"] for row in csv.DictReader(Path(files[-1]).read_text().splitlines())]
    batch = AutoTokenizer.from_pretrained(folder / "merged")(texts, padding=True, return_tensors="pt")
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    with torch.no_grad():
        logits = merged(**batch).logits
    # As the trained model has answered under the engine.
    trained = [[float(row["logit_bad"]), float(row["logit_good"])] for row in predictions(folder)]
    torch.testing.assert_close(logits, torch.tensor(trained), atol=1e-4, rtol=0)
    untrained = build_student(AutoModelForSequenceClassification.from_pretrained(teacher), [4, 2]).eval()
    with torch.no_grad():
        assert (untrained(**batch).logits - logits).abs().max() > 0.1


# ---- Errors ----


@pytest.mark.distributed
def test_an_error_ends_every_process_in_one_line_with_an_exit_code(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files, "--layers", "2,13", "--output_dir", tmp_path / "student"]
    for num_processes in (1, 2):
        process = run_elsewhere(*arguments, num_processes=num_processes)
        assert process.returncode == 1
        (last_line,) = {line for line in process.stderr.splitlines() if line.startswith("error: ")}
        assert "2,13" in last_line
        assert "Traceback" not in process.stderr
        assert not (tmp_path / "student").exists()
