"""Tests of `run_distillation.py` from the command line to the files it leaves, on tiny teachers."""

import json
import os
import re
import shutil
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from transformers import pipeline as make_pipeline

from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.record import read_record
from tests.glue_cache import write_glue_cache
from tests.script_runs import (
    MNLI,
    SCRIPT,
    metrics,
    predictions,
    results,
    run_here,
    run_script,
    sentences,
    tree,
    weights,
    write_csv,
    write_json_lines,
)
from training import run as training_run
from training import teacher as training_teacher
from training.tables import results_table

pytestmark = pytest.mark.usefixtures("script_caches")
needs_mnli = pytest.mark.skipif(not MNLI.is_dir(), reason=f"HF_HOME holds no MNLI: {MNLI} does not exist")


# ---- One run, as a user starts it ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher, files):
    """Folder and outputs of one run of the script in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    arguments = ["--teacher_name_or_path", teacher, *files, "--output_dir", folder, "--layers", "4,2"]
    arguments += ["--ce_weight", "0.3", "--num_train_epochs", "2", "--per_device_train_batch_size", "8"]
    process = run_script(*arguments)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout, process.stderr


def test_every_output_of_the_design_is_there(finished):
    folder, _, _ = finished
    expected = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    expected |= {f"{name}_results.json" for name in ("train", "eval", "predict", "all")}
    expected |= {"distillation.json", "predictions_test.csv", "trainer_state.json"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert not list(folder.rglob("*unfinished*"))


def test_the_student_is_a_standard_checkpoint_with_the_datas_label_names(finished, teacher):
    folder, _, _ = finished
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is BertForSequenceClassification
    assert model.config.num_hidden_layers == 2
    assert model.config.id2label == {0: "bad", 1: "good"}
    teacher_model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert model.state_dict().keys() < teacher_model.state_dict().keys()
    classify = make_pipeline("text-classification", model=str(folder), device="cpu")
    rows = predictions(folder)
    texts = [text for text, _ in sentences(13, 60)]
    assert [answer["label"] for answer in classify(texts)] == [row["prediction"] for row in rows]


def test_the_record_says_how_the_student_was_made(finished, teacher):
    folder, _, _ = finished
    record = read_record(folder)
    assert record["teacher"]["name"] == teacher
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert record["teacher"]["fingerprint"] == fingerprint_model(model)
    assert record["teacher"]["layers"] == [1, 2, 3, 4]
    assert (record["student"]["layers"], record["student"]["layer_strategy"]) == ([4, 2], "explicit")
    assert record["student"]["num_layers"] == 2
    assert record["teacher"]["parameters"] == model.num_parameters()
    assert record["loss"] == {"ce_weight": 0.3, "kl_weight": 0.5, "cosine_weight": 0.0, "temperature": 2.0}
    assert record["data"]["labels"] == ["bad", "good"]
    assert record["data"]["source"].endswith("/train.csv")
    assert record["data"]["fingerprints"].keys() == {"train", "validation", "test"}
    assert {len(fingerprint) for fingerprint in record["data"]["fingerprints"].values()} == {64}
    assert record["seed"] == 42
    assert {"python", "torch", "transformers", "datasets"} <= record["libraries"].keys()
    assert record["command"].startswith(f"python {SCRIPT} --teacher_name_or_path {teacher} ")
    assert record["settings"]["layers"] == "4,2"


def test_the_mapping_of_layers_is_logged_once_from_one(finished):
    _, _, stderr = finished
    assert stderr.count("from the embeddings to the head: 1 <- 4, 2 <- 2 (2 of 4 layers)") == 1


def test_the_student_starts_from_the_layers_it_says(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files, "--output_dir", tmp_path / "student", "--layers", "4,2"]
    run_here(*arguments, "--learning_rate", "1e-30", "--max_steps", 1, "--weight_decay", 0)
    student, full = (load_file(Path(folder) / "model.safetensors") for folder in (tmp_path / "student", teacher))
    for position, layer in ((0, 3), (1, 1)):  # in the names of tensors, layers are counted from 0
        name = "bert.encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(student[name.format(position)], full[name.format(layer)])


def test_the_results_have_the_metrics_of_every_stage(finished):
    folder, _, _ = finished
    every = results(folder)
    assert {"train_loss", "train_loss_ce", "train_loss_kl"} <= every.keys()
    assert {"eval_loss", "eval_accuracy", "eval_macro_f1"} <= every.keys()
    assert {"predict_loss", "predict_accuracy", "predict_f1_bad"} <= every.keys()
    for stage in ("train", "eval", "predict"):
        assert results(folder, f"{stage}_results").items() <= every.items()
    rows = predictions(folder)
    assert every["predict_accuracy"] == np.mean([row["label"] == row["prediction"] for row in rows])
    assert [row["label"] for row in rows] == [label for _, label in sentences(13, 60)]


def test_the_run_ends_with_the_table(finished):
    folder, stdout, _ = finished
    table = results_table(read_record(folder))
    assert stdout.rstrip().endswith(table)
    assert "| teacher | 1,2,3,4 | " in table
    assert "| student | 4,2     | " in table
    assert table in (folder / "README.md").read_text()


def test_what_was_resolved_is_logged_once(finished):
    folder, _, stderr = finished
    record = read_record(folder)
    lines = [line.split() for line in stderr.splitlines()]
    for name, value, source in (
        ("ce_weight", "0.3", ["command", "line"]),
        ("kl_weight", "0.5", ["default"]),
        ("cosine_weight", "0.0", ["default"]),
        ("temperature", "2.0", ["default"]),
        ("layers", "4,2", ["command", "line"]),
    ):
        assert lines.count([name, value, *source]) == 1
    parameters = f"teacher {record['teacher']['parameters']:,}, student {record['student']['parameters']:,}"
    assert stderr.count(parameters) == 1


def test_a_random_teacher_is_reported_loudly(finished):
    _, _, stderr = finished
    assert stderr.count("THE TEACHER IS NO BETTER THAN GUESSING") == 1


def test_the_same_command_twice_gives_the_same_metrics_and_weights(tmp_path, teacher, files):
    # From an encoder, so that the teacher's fine-tuning is covered too.
    encoder = tmp_path / "encoder"
    AutoModelForSequenceClassification.from_pretrained(teacher).bert.save_pretrained(encoder)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(encoder)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        run_here("--teacher_name_or_path", encoder, *files, "--output_dir", folder, "--num_train_epochs", 2)
        torch.rand(5)  # the random state before the second run is another one
    assert metrics(folders[0]) == metrics(folders[1])
    assert weights(folders[0]) == weights(folders[1])
    assert weights(folders[0] / "teacher") == weights(folders[1] / "teacher")
    assert predictions(folders[0]) == predictions(folders[1])
    record = read_record(folders[0])
    assert record["teacher"]["results"]["train_loss_ce"] > 0
    assert record["student"]["layers"] == [2, 4]  # `even` by default


# ---- MNLI, under every launcher ----


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


def same_results(folder, reference):
    assert {"eval_accuracy", "eval_accuracy_mm", "eval_loss", "eval_loss_mm"} <= results(folder).keys()
    for name in ("train_loss", "train_loss_ce", "train_loss_kl", "eval_loss", "eval_loss_mm"):
        assert results(folder)[name] == pytest.approx(results(reference)[name], rel=1e-4)
    for name in ("eval_accuracy", "eval_accuracy_mm"):
        assert results(folder)[name] == pytest.approx(results(reference)[name], abs=1.5 / 61)
    teachers = [read_record(path)["teacher"]["results"] for path in (folder, reference)]
    assert teachers[0]["eval_accuracy_mm"] == teachers[1]["eval_accuracy_mm"]


@needs_mnli
def test_mnli_is_evaluated_on_both_validation_sets(mnli_on_one_process):
    every = results(mnli_on_one_process)
    assert len(predictions(mnli_on_one_process, "validation_matched")) == 61
    assert every["eval_loss"] != every["eval_loss_mm"]
    assert {"eval_accuracy", "eval_accuracy_mm"} <= every.keys()
    assert read_record(mnli_on_one_process)["data"]["source"] == "nyu-mll/glue mnli"
    table = results_table(read_record(mnli_on_one_process))
    assert "Validation accuracy" in table and "Mismatched accuracy" in table


@needs_mnli
@pytest.mark.distributed
def test_mnli_gives_the_same_under_accelerate(mnli_arguments, mnli_on_one_process, tmp_path):
    arguments = [*mnli_arguments, "--output_dir", tmp_path / "student", "--per_device_train_batch_size", 8]
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--cpu"]
    process = run_script(*arguments, launcher=[*launcher, "--mixed_precision", "no", "--dynamo_backend", "no"])
    assert process.returncode == 0, process.stderr
    same_results(tmp_path / "student", mnli_on_one_process)


@needs_mnli
@pytest.mark.distributed
def test_mnli_gives_the_same_on_two_processes_with_the_same_global_batch(
    mnli_arguments, mnli_on_one_process, tmp_path
):
    arguments = [*mnli_arguments, "--output_dir", tmp_path / "student", "--per_device_train_batch_size", 4]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = run_script(*arguments, launcher=launcher)
    assert process.returncode == 0, process.stderr
    same_results(tmp_path / "student", mnli_on_one_process)
    assert process.stdout.count("| teacher | ") == 1
    assert process.stderr.count("Parameters: teacher") == 1


# ---- DeepSpeed ----


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
DEEPSPEED = ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", "29631"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", "2"]


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


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("launcher", "config", "teacher_cache"),
    [
        (DEEPSPEED, "ds_config.json", "true"),
        (TORCHRUN, "examples/ds_zero3.json", "true"),
        (DEEPSPEED, "examples/ds_zero3.json", "false"),
    ],
)
def test_teacher_and_student_trained_with_deepspeed_are_those_of_one_process(
    from_encoder, from_encoder_on_one_process, tmp_path, monkeypatch, launcher, config, teacher_cache
):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    folder = tmp_path / "student"
    arguments = [*from_encoder, "--output_dir", folder, "--per_device_train_batch_size", 4]
    arguments += ["--deepspeed", SCRIPT.parent / config, "--teacher_cache", teacher_cache]
    process = run_script(*arguments, launcher=launcher)
    assert process.returncode == 0, process.stderr[-6000:]
    assert "--local_rank" not in read_record(folder)["command"]
    ours, reference = read_record(folder), read_record(from_encoder_on_one_process)
    for role in ("teacher", "student"):
        losses = {name: value for name, value in reference[role]["results"].items() if "loss" in name}
        assert len(losses) >= 3
        for name, value in losses.items():
            assert ours[role]["results"][name] == pytest.approx(value, rel=1e-4), (role, name)
    trained, expected = (
        load_file(folder / "model.safetensors"),
        load_file(from_encoder_on_one_process / "model.safetensors"),
    )
    assert trained.keys() == expected.keys()
    for name, weight in trained.items():
        assert (weight - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-5, name


@pytest.mark.distributed
@pytest.mark.parametrize("configured_by", ["script", "launcher"])
def test_teacher_and_student_have_schedules_of_their_own_from_the_same_deepspeed_configuration(
    from_encoder, tmp_path, monkeypatch, configured_by
):
    """What is "auto" in it is filled in with a training's own learning rate and steps, not with those of the first."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    names = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps")
    scheduler = {"type": "WarmupDecayLR", "params": dict.fromkeys(names, "auto")}
    config = json.loads((SCRIPT.parent / "ds_config.json").read_text()) | {"scheduler": scheduler}
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = tmp_path / "student"
    arguments, launcher = [*from_encoder, "--output_dir", folder, "--logging_steps", 1], TORCHRUN
    if configured_by == "script":
        arguments += ["--deepspeed", tmp_path / "config.json"]
    else:
        launcher = [*ACCELERATE, "--use_deepspeed", "--deepspeed_config_file", tmp_path / "config.json"]
    process = run_script(*arguments, "--per_device_train_batch_size", 4, launcher=launcher)
    assert process.returncode == 0, process.stderr[-6000:]
    rates = [float(rate) for rate in re.findall(r"'learning_rate': '?([-0-9.e]+)", process.stdout)]
    assert len(rates) == 15 + 10, "three epochs of the teacher's, two of the student's"
    assert max(rates[:15]) == pytest.approx(5e-5, rel=0.1)
    assert max(rates[15:]) == pytest.approx(1e-3, rel=0.1)


# ---- Other kinds of data ----


def test_scores_of_sentence_pairs_are_regression(make_teacher, tmp_path):
    rows = [
        {"sentence1": text, "sentence2": other, "label": i % 11 / 2}
        for i, ((text, _), (other, _)) in enumerate(zip(sentences(40), sentences(40, 7), strict=True))
    ]
    folder = tmp_path / "student"
    unlabelled = [{name: row[name] for name in ("sentence1", "sentence2")} for row in rows[30:35]]
    run_here(
        *("--teacher_name_or_path", make_teacher(["LABEL_0"]), "--output_dir", folder, "--num_train_epochs", 1),
        *("--train_file", write_json_lines(tmp_path / "train.jsonl", rows[:30])),
        *("--validation_file", write_json_lines(tmp_path / "validation.json", rows[30:])),
        *("--test_file", write_json_lines(tmp_path / "test.jsonl", unlabelled)),
    )
    every = results(folder)
    assert {"eval_pearson", "eval_spearmanr", "eval_mse", "eval_loss"} <= every.keys()
    assert every["eval_loss"] == pytest.approx(every["eval_mse"], rel=1e-4)
    assert not any(name.startswith("predict_") for name in every)
    assert results(folder, "predict_results") == {}
    assert list(predictions(folder)[0]) == ["index", "prediction", "logit_score"]
    assert len(predictions(folder)) == 5
    assert "Validation Pearson" in results_table(read_record(folder))
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.problem_type == "regression"


def test_stsb_is_a_regression_with_its_own_metrics(make_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_glue_cache(tmp_path / "cache", "stsb", num_rows=8)
    arguments = ["--teacher_name_or_path", make_teacher(["score"]), "--task_name", "stsb", "--num_train_epochs", 1]
    run_here(*arguments, "--output_dir", tmp_path / "student")
    assert {"eval_mse", "eval_loss"} <= results(tmp_path / "student").keys()
    assert "eval_accuracy" not in results(tmp_path / "student")


def test_the_cosine_loss_is_refused_for_a_regression_before_anything_is_trained(make_teacher, tmp_path):
    rows = [{"text": text, "label": i / 4} for i, (text, _) in enumerate(sentences(8))]
    file = write_json_lines(tmp_path / "scores.jsonl", rows)
    arguments = ["--teacher_name_or_path", make_teacher(["LABEL_0"]), "--train_file", file, "--validation_file", file]
    refused("a single output and the cosine of two numbers", [*arguments, "--cosine_weight", 1], tmp_path / "student")


def test_lists_of_labels_are_multi_label(make_teacher, tmp_path):
    names = ["angry", "sad", "vulgar"]
    rows = [
        {"text": text, "labels": [name for j, name in enumerate(names) if (i >> j) & 1]}
        for i, (text, _) in enumerate(sentences(40))
    ]
    folder = tmp_path / "student"
    run_here(
        *("--teacher_name_or_path", make_teacher(names), "--output_dir", folder, "--num_train_epochs", 1),
        *("--train_file", write_json_lines(tmp_path / "train.jsonl", rows[:24])),
        *("--validation_file", write_json_lines(tmp_path / "validation.jsonl", rows[24:32])),
        *("--test_file", write_json_lines(tmp_path / "test.jsonl", rows[32:])),
    )
    assert {"eval_micro_f1", "predict_macro_f1", "predict_f1_vulgar"} <= results(folder).keys()
    assert [row["label"] for row in predictions(folder)] == [";".join(row["labels"]) for row in rows[32:]]
    config = AutoModelForSequenceClassification.from_pretrained(folder).config
    assert (config.problem_type, list(config.id2label.values())) == ("multi_label_classification", names)


@pytest.fixture
def texts_alone(tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "".join(f"{text}\n" for text, _ in sentences(40)))
    return file


def test_a_trained_teacher_is_distilled_on_texts_without_labels(teacher, files, texts_alone, tmp_path):
    folder = tmp_path / "student"
    run_here(
        *("--teacher_name_or_path", teacher, *replace_file(files, "train", texts_alone), "--output_dir", folder),
        *("--ce_weight", 0, "--kl_weight", 1, "--num_train_epochs", 1),
        *("--layer_strategy", "search", "--search_budget", 30),
    )
    assert {"train_loss_kl", "eval_accuracy"} <= results(folder).keys() and "train_loss_ce" not in results(folder)
    assert "student" in results_table(read_record(folder))


def test_a_new_head_cannot_be_trained_on_texts_without_labels(make_teacher, files, texts_alone, tmp_path):
    teacher = make_teacher(["bad", "good"], encoder_only=True)
    arguments = ["--teacher_name_or_path", teacher, *replace_file(files, "train", texts_alone)]
    refused("no labels, so that a teacher", [*arguments, "--ce_weight", 0, "--kl_weight", 1], tmp_path / "student")


def test_a_train_file_alone_is_enough_with_a_share_to_validate_on(teacher, files, tmp_path):
    run_here(
        *("--teacher_name_or_path", teacher, *files[:2], "--validation_split_percentage", 25),
        *("--output_dir", tmp_path / "student", "--num_train_epochs", 1, "--layer_strategy", "random"),
    )
    assert read_record(tmp_path / "student")["student"]["layers"] == []
    assert "eval_accuracy" in results(tmp_path / "student")
    assert not (tmp_path / "student" / "predictions_test.csv").exists()
    rows = predictions(tmp_path / "student", "validation")
    right = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    assert right == pytest.approx(results(tmp_path / "student")["eval_accuracy"])


def test_only_training_leaves_a_student_and_a_table_without_its_scores(teacher, files, tmp_path, capsys):
    folder = tmp_path / "student"
    run_here("--teacher_name_or_path", teacher, *files, "--do_train", "--num_train_epochs", 1, "--output_dir", folder)
    assert not any(name.startswith(("eval_", "predict_")) for name in results(folder))
    assert "| student | 2,4     | " in capsys.readouterr().out


def test_very_long_and_empty_texts_run(teacher, tmp_path):
    rows = [*sentences(20), ("x" * 100_000, "bad"), ("so " * 33_000 + "long", "good"), ("", "good"), (" ", "bad")]
    path = write_csv(tmp_path / "texts.csv", rows)
    run_here(
        *("--teacher_name_or_path", teacher, "--train_file", path, "--validation_file", path, "--test_file", path),
        *("--output_dir", tmp_path / "student", "--num_train_epochs", 1),
    )
    assert np.isfinite(list(metrics(tmp_path / "student").values())).all()
    assert len(predictions(tmp_path / "student")) == len(rows)


# ---- The teacher's outputs, evaluation alone, a teacher made first ----


def test_with_and_without_stored_teacher_outputs_the_student_is_the_same(make_teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], dropout=0.0), *files]
    arguments += ["--num_train_epochs", 2, "--cosine_weight", 0.5, "--per_device_train_batch_size", 8]
    run_here(*arguments, "--output_dir", tmp_path / "stored")
    run_here(*arguments, "--output_dir", tmp_path / "run", "--no_teacher_cache")
    assert list((tmp_path / "stored").rglob("*.arrow"))
    assert not list((tmp_path / "run").rglob("*.arrow"))
    assert read_record(tmp_path / "run")["settings"]["teacher_cache"] is False
    stored, each_step = (load_file(tmp_path / name / "model.safetensors") for name in ("stored", "run"))
    # The teacher's batches are padded to other lengths: equal up to rounding, which Adam enlarges a little.
    for name in stored:
        torch.testing.assert_close(stored[name], each_step[name], rtol=0, atol=2e-4)
    for name, value in metrics(tmp_path / "stored").items():
        assert metrics(tmp_path / "run")[name] == pytest.approx(value, abs=1e-4), name


def test_with_and_without_stored_hidden_states_the_student_is_the_same(make_teacher, files, tmp_path, caplog):
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], dropout=0.0), *files, "--layers", "1,3"]
    arguments += ["--num_train_epochs", 1, "--hidden_weight", 0.5, "--per_device_train_batch_size", 8]
    caplog.set_level("INFO")
    run_here(*arguments, "--output_dir", tmp_path / "run")
    assert re.search(r"hidden states would take 0\.00 GB: allow for them with --hidden_state_cache_gb", caplog.text)
    assert not list((tmp_path / "run").rglob("*.arrow"))
    run_here(*arguments, "--output_dir", tmp_path / "stored", "--hidden_state_cache_gb", 0.1)
    assert list((tmp_path / "stored").rglob("hidden_states.arrow"))
    results = [metrics(tmp_path / name) for name in ("run", "stored")]
    assert results[0]["train_loss_hidden"] > 0
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, abs=2e-3), name


def test_every_loss_and_schedule_is_in_the_record_and_on_the_card(make_teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"]), *files, "--max_steps", 2]
    arguments += ["--attention_weight", 0.5, "--relation_weight", 0.25, "--linear_to", '{"temperature": 1}']
    run_here(*arguments, "--output_dir", tmp_path / "run")
    loss = read_record(tmp_path / "run")["loss"]
    assert loss == {
        **{"ce_weight": 0.5, "kl_weight": 0.5, "cosine_weight": 0.0, "temperature": 2.0},
        **{"attention_weight": 0.5, "relation_weight": 0.25, "attention_divergence": "kl"},
        "temperature at the end": 1,
    }
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- `relation_weight`: 0.25" in card and "- `temperature at the end`: 1" in card


def test_other_layers_and_seeds_read_the_stored_outputs_and_fewer_examples_get_their_own(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files, "--max_steps", 1]
    arguments += ["--teacher_cache_dir", tmp_path / "cache"]
    files_after_each = []
    for name, changes in (
        ("first", []),
        ("other student", ["--layers", "1,3", "--seed", 1, "--temperature", 4]),
        ("fewer examples", ["--max_train_samples", 20]),
    ):
        run_here(*arguments, *changes, "--output_dir", tmp_path / name)
        files_after_each.append(tree(tmp_path / "cache"))
    first, second, third = files_after_each
    assert first and first == second
    assert first.items() < third.items() and len(third) == 2 * len(first)


def test_an_existing_student_is_evaluated_without_its_teacher_and_left_alone(finished, files, tmp_path, monkeypatch):
    folder = tmp_path / "student"
    shutil.copytree(finished[0], folder)
    before = {name: (folder / name).read_bytes() for name in ("model.safetensors", "distillation.json", "README.md")}
    expected = metrics(folder)
    monkeypatch.setattr(training_teacher, "fine_tune", lambda *args: pytest.fail("the teacher is not needed"))
    (folder / "predictions_test.csv").unlink()
    # As with the argument file of the run: losses that need a teacher do not matter any more.
    losses = ["--hidden_weight", 1, "--relation_weight", 1]
    run_here("--output_dir", folder, "--do_eval", "--do_predict", *losses, *files)
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert metrics(folder) == pytest.approx(expected)
    assert len(predictions(folder)) == 13


@pytest.mark.parametrize("arguments", [["--do_eval"], ["--do_predict"]])
def test_there_must_be_a_student_to_evaluate(teacher, files, tmp_path, arguments):
    folder = tmp_path / "nothing"
    with pytest.raises(ValueError, match="holds no student to evaluate"):
        run_here("--teacher_name_or_path", teacher, *files, *arguments, "--output_dir", folder)
    assert not folder.exists()


def test_a_fine_tuned_teacher_is_shared_by_runs_with_other_seeds(make_teacher, files, tmp_path, capsys):
    shared = tmp_path / "teacher"
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], encoder_only=True), *files]
    arguments += ["--teacher_output_dir", shared, "--num_train_epochs", 1, "--teacher_num_train_epochs", 1]
    run_here(*arguments, "--output_dir", tmp_path / "one", "--layer_strategy", "top")
    made = tree(shared)
    run_here(*arguments, "--output_dir", tmp_path / "two", "--seed", 1)
    assert {path: content for path, content in tree(shared).items() if path in made} == made
    one, two = (read_record(tmp_path / name) for name in ("one", "two"))
    assert one["teacher"]["fingerprint"] == two["teacher"]["fingerprint"]
    assert (one["student"]["layers"], two["student"]["layers"]) == ([1, 2], [2, 4])
    assert two["teacher"]["results"]["train_loss_ce"] == one["teacher"]["results"]["train_loss_ce"]


# ---- Interrupted and repeated runs ----


def test_a_finished_run_is_repeated_from_scratch_but_not_replaced_by_another(teacher, files, tmp_path):
    folder = tmp_path / "student"
    arguments = ["--teacher_name_or_path", teacher, "--num_train_epochs", 1, "--save_strategy", "no", *files]
    run_here(*arguments, "--output_dir", folder)
    first = weights(folder)
    (folder / "checkpoint-900").mkdir()
    (folder / "predictions_old.csv").touch()
    run_here(*arguments, "--output_dir", folder)
    assert weights(folder) == first
    assert not (folder / "checkpoint-900").exists() and not (folder / "predictions_old.csv").exists()
    refused("holds a run with other settings", [*arguments, "--layer_strategy", "top"], folder)


def test_pushing_uploads_the_student_alone_and_once(teacher, files, tmp_path, monkeypatch):
    uploads, repositories = [], []

    def create_repository(trainer):
        trainer.hub_model_id = "me/student"
        repositories.append(trainer.args.output_dir)

    monkeypatch.setattr(training_run, "upload_folder", lambda **kwargs: uploads.append(kwargs))
    monkeypatch.setattr(training_run.DistillationTrainer, "init_hf_repo", create_repository)
    arguments = ["--teacher_name_or_path", teacher, "--num_train_epochs", 1, *files, "--save_strategy", "epoch"]
    run_here(*arguments, "--output_dir", tmp_path / "student", "--push_to_hub")
    assert len(repositories) == 1
    (upload,) = uploads
    assert upload["repo_id"] == "me/student"
    assert 'model="me/student"' in (tmp_path / "student" / "README.md").read_text()
    assert {"checkpoint-*/*", "stages/*", "teacher/*", "training_args.bin"} == set(upload["ignore_patterns"])


# ---- Bad input ----


def replace_file(arguments, split, path):
    position = arguments.index(f"--{split}_file") + 1
    return [*arguments[:position], str(path), *arguments[position + 1 :]]


ARGUMENT_ERRORS = {
    "layers outside 1..N": (["--layers", "0,13"], "Layers are 1..N .* got 0 in 0,13"),
    "layers beyond this teacher": (["--layers", "2,13"], r"Layers are 1..4 \(1-based.* got 13 in 2,13"),
    "unknown strategy": (["--layer_strategy", "middle"], "The layer strategy is one of top, first.* got 'middle'"),
    "temperature 0": (["--temperature", "0"], "`temperature` must be a finite number > 0, found 0.0"),
    "negative weight": (["--kl_weight", "-0.5"], "`kl_weight` must be a finite number >= 0, found -0.5"),
    "no weight": (["--ce_weight", "0", "--kl_weight", "0"], "are all 0, so there is no loss to train on"),
    "order of labels": (
        ["--label_order", "good,bad"],
        "the data in the order good,bad. Run again with --label_order bad,good",
    ),
    "missing text column": (
        ["--text_column_name", "comment"],
        "text column 'comment', but found the columns text",
    ),
    "missing label column": (["--label_column_name", "class"], "labels in a column 'class', but found none among"),
    "teacher out of reach": (
        ["--teacher_name_or_path", "no-one/nothing"],
        "'no-one/nothing' is neither a local folder .* `hf download no-one/nothing` and pass the folder",
    ),
    "unknown argument": (["--layer_stategy", "even"], "Unknown arguments: --layer_stategy even"),
}


def refused(message, arguments, output_dir):
    """The run ends in an error of ours with this message, which is shown in one line, and leaves nothing."""
    before = tree(output_dir)
    existed = Path(output_dir).exists()
    start = time.perf_counter()
    with pytest.raises(UserError, match=message):
        run_here(*arguments, "--output_dir", output_dir)
    assert time.perf_counter() - start < 30
    assert Path(output_dir).exists() == existed
    assert tree(output_dir) == before


@pytest.mark.parametrize("case", ARGUMENT_ERRORS)
def test_wrong_arguments_are_refused(teacher, files, tmp_path, case):
    arguments, message = ARGUMENT_ERRORS[case]
    refused(message, ["--teacher_name_or_path", teacher, *files, *arguments], tmp_path / "student")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task_name", "imdb"], "task_name must be one of cola, mnli, .* not 'imdb'"),
        (
            ["--dataset_name", "no-one/no-data"],
            "The data set no-one/no-data must be in the cache or within reach.* On a connected machine run .* or use",
        ),
        (["--train_file", "nowhere.csv"], "there is no file 'nowhere.csv'"),
    ],
)
def test_data_that_cannot_be_had_are_refused(teacher, tmp_path, arguments, message):
    refused(message, ["--teacher_name_or_path", teacher, *arguments], tmp_path / "student")


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("train", "", r"train.csv' is empty \(0 bytes\)"),
        ("train", "text,label\n", "train.csv has none, only the columns text, label"),
        (
            "train",
            "text,label\na,good\nb,bad\nc,\n",
            "must have a label, but .* 1 of 3 rows have none: row 3",
        ),
        ("train", "text,label\na,good\nb,bad\nc\n", "Expected 2 columns, got 1"),
        ("validation", "text,label\na,good\nb,ugly\n", "bad, good, but .*validation.csv has also ugly"),
        ("validation", "text\na\n", "must have labels in the column 'label', but found none"),
        ("train", "text\na\nb\n", "training examples have no labels, but --ce_weight is positive.*--kl_weight 1"),
        ("test", "text,label\na,ugly\nb,bad\n", "bad, good, but .*test.csv has also ugly"),
    ],
)
def test_wrong_files_are_refused(teacher, files, tmp_path, split, content, message):
    path = tmp_path / f"{split}.csv"
    path.write_text(content)
    arguments = ["--teacher_name_or_path", teacher, *replace_file(files, split, path)]
    refused(message, arguments, tmp_path / "student")


def test_without_a_validation_split_nothing_else_is_taken_for_it(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files[:2], *files[4:]]
    refused("validation_split_percentage, for example 10", arguments, tmp_path / "student")


def test_a_truncated_teacher_is_refused(teacher, files, tmp_path):
    truncated = tmp_path / "truncated"
    shutil.copytree(teacher, truncated)
    (truncated / "model.safetensors").write_bytes(weights(truncated)[:-1000])
    arguments = ["--teacher_name_or_path", truncated, *files]
    refused(f"The checkpoint in {truncated} cannot be read: .* truncated", arguments, tmp_path / "student")


def test_a_tokenizer_with_another_vocabulary_is_refused(teacher, files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(Path(teacher) / name, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    arguments = ["--teacher_name_or_path", teacher, "--tokenizer_name", other, *files]
    refused("The vocabulary of --tokenizer_name .* is not that of the teacher", arguments, tmp_path / "student")


def test_a_folder_that_is_not_a_run_of_ours_is_refused_and_left_untouched(teacher, files, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    arguments = ["--teacher_name_or_path", teacher, *files]
    refused("is not empty and not a run of this project", arguments, tmp_path / "thesis")


def test_a_run_of_ours_survives_a_wrong_command(finished, teacher, files):
    refused("got 13 in 2,13", ["--teacher_name_or_path", teacher, *files, "--layers", "2,13"], finished[0])


def test_the_shell_sees_one_line_and_an_exit_code(teacher, files, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,good\nb,bad\nc\n")
    arguments = ["--teacher_name_or_path", teacher, *replace_file(files, "train", path)]
    process = run_script(*arguments, "--output_dir", tmp_path / "student")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: A data file must be what its name says")
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "student").exists()


@pytest.mark.distributed
def test_an_error_ends_every_process(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files, "--layers", "2,13", "--output_dir", tmp_path / "student"]
    process = run_script(*arguments, launcher=["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"])
    assert process.returncode == 1
    assert "error: Layers are 1..4 (1-based" in process.stderr
    assert 'run_distillation.py", line' not in process.stderr, "a traceback of the script"
    assert not (tmp_path / "student").exists()
