"""Tests of `run_distillation.py` from the command line to the files it leaves, on tiny teachers."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PhobertTokenizer,
)
from transformers import pipeline as make_pipeline

import run_distillation
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.record import RunRecord
from tests.glue_cache import write_glue_cache
from tests.script_runs import (
    BAD,
    GOOD,
    NOUNS,
    SCRIPT,
    metrics,
    predictions,
    read_record,
    results,
    run_here,
    run_process,
    sentences,
    table_of,
    tree,
    weights,
    write_csv,
    write_json_lines,
)
from training import hub

pytestmark = pytest.mark.usefixtures("script_caches")


# ---- One run, as a user starts it ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher, files):
    """Folder and outputs of one run of the script in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    arguments = ["--teacher_name_or_path", teacher, *files, "--output_dir", folder, "--layers", "4,2"]
    arguments += ["--ce_weight", "0.3", "--num_train_epochs", "2", "--per_device_train_batch_size", "8"]
    process = run_process(SCRIPT, *arguments)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout, process.stderr


def test_every_output_of_the_design_is_there(finished):
    folder, _, _ = finished
    expected = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    expected |= {f"{name}_results.json" for name in ("train", "eval", "predict", "all")}
    expected |= {"distillation.json", "predictions_test.csv", "trainer_state.json"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert not list(folder.rglob("*unfinished*"))


def test_the_files_can_be_read_by_whom_the_umask_allows(finished):
    folder, _, _ = finished
    new_file = folder.parent / "new"
    new_file.touch()
    allowed = new_file.stat().st_mode
    assert {path.name for path in folder.iterdir() if path.is_file() and path.stat().st_mode != allowed} == set()


def test_the_tokenizer_is_saved_with_the_length_of_the_training_and_no_padding_or_truncation(finished):
    folder, _, _ = finished
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 128
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert (saved["padding"], saved["truncation"]) == (None, None)


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
    table = table_of(folder)
    assert stdout.rstrip().endswith(table)
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
    for role in ("teacher", "student"):
        assert stderr.count(f"{record[role]['parameters']:,}") == 1
    assert stderr.count("1 <- 4, 2 <- 2") == 1


def test_a_random_teacher_is_reported_loudly(finished):
    _, _, stderr = finished
    assert stderr.count("GUESSING") == 1


# ---- Other kinds of data ----


def test_scores_of_sentence_pairs_are_regression(make_teacher, tmp_path):
    rows = [
        {"sentence1": text, "sentence2": other, "label": i % 11 / 2}
        for i, ((text, _), (other, _)) in enumerate(zip(sentences(40), sentences(40, 7), strict=True))
    ]
    folder = tmp_path / "student"
    unlabelled = [{name: row[name] for name in ("sentence1", "sentence2")} for row in rows[30:35]]
    arguments = ["--train_file", write_json_lines(tmp_path / "train.jsonl", rows[:30])]
    arguments += ["--validation_file", write_json_lines(tmp_path / "validation.json", rows[30:])]
    arguments += ["--test_file", write_json_lines(tmp_path / "test.jsonl", unlabelled)]
    arguments += ["--teacher_name_or_path", make_teacher(["LABEL_0"]), "--num_train_epochs", 1]
    run_here(*arguments, "--output_dir", folder)
    every = results(folder)
    assert {"eval_pearson", "eval_spearmanr", "eval_mse", "eval_loss"} <= every.keys()
    assert every["eval_loss"] == pytest.approx(every["eval_mse"], rel=1e-4)
    assert not any(name.startswith("predict_") for name in every)
    assert results(folder, "predict_results") == {}
    assert list(predictions(folder)[0]) == ["index", "prediction", "logit_score"]
    assert len(predictions(folder)) == 5
    assert "Validation Pearson" in table_of(folder)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.problem_type == "regression"


def test_stsb_is_a_regression_with_its_own_metrics(make_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_glue_cache(tmp_path / "cache", "stsb", num_rows=8)
    arguments = ["--teacher_name_or_path", make_teacher(["score"]), "--task_name", "stsb", "--num_train_epochs", 1]
    run_here(*arguments, "--output_dir", tmp_path / "student")
    assert {"eval_mse", "eval_loss"} <= results(tmp_path / "student").keys()
    assert "eval_accuracy" not in results(tmp_path / "student")


def test_lists_of_labels_are_multi_label(make_teacher, tmp_path):
    names = ["angry", "sad", "vulgar"]
    rows = [
        {"text": text, "labels": [name for j, name in enumerate(names) if (i >> j) & 1]}
        for i, (text, _) in enumerate(sentences(40))
    ]
    folder = tmp_path / "student"
    arguments = ["--train_file", write_json_lines(tmp_path / "train.jsonl", rows[:24])]
    arguments += ["--validation_file", write_json_lines(tmp_path / "validation.jsonl", rows[24:32])]
    arguments += ["--test_file", write_json_lines(tmp_path / "test.jsonl", rows[32:])]
    arguments += ["--teacher_name_or_path", make_teacher(names), "--num_train_epochs", 1]
    run_here(*arguments, "--output_dir", folder, "--threshold_rule", "flagged=0.25")
    assert {"eval_micro_f1", "predict_macro_f1", "predict_f1_vulgar"} <= results(folder).keys()
    assert [row["label"] for row in predictions(folder)] == [";".join(row["labels"]) for row in rows[32:]]
    config = AutoModelForSequenceClassification.from_pretrained(folder).config
    assert (config.problem_type, list(config.id2label.values())) == ("multi_label_classification", names)
    chosen = json.loads((folder / "thresholds.json").read_text())
    assert (chosen["rule"], chosen["split"], list(chosen["thresholds"])) == ("flagged=0.25", "validation", names)
    # At most 2 of the 8 validation texts; one more would be flagged at the next lower threshold.
    classify = make_pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    scores = [
        {entry["label"]: entry["score"] for entry in answer} for answer in classify([r["text"] for r in rows[24:32]])
    ]
    for name, threshold in chosen["thresholds"].items():
        assert sum(score[name] >= threshold for score in scores) == 2
    assert "flagged=0.25" in (folder / "README.md").read_text()

    # Thresholds that were changed by hand stay, unless a rule on the command line replaces them.
    edited = json.dumps(chosen | {"thresholds": {"vulgar": 0.9}})
    (folder / "thresholds.json").write_text(edited)
    run_here(*arguments, "--output_dir", folder, "--do_eval")
    assert json.loads((folder / "thresholds.json").read_text()) == json.loads(edited)

    # The model card shows those of the new rule beside what was measured meanwhile, unless it was changed by hand.
    (folder / "identity_bias.md").write_text("## Identity bias\n")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\n## Identity bias\n")
    run_here(*arguments, "--output_dir", folder, "--do_eval", "--threshold_rule", "flagged=0.5")
    assert json.loads((folder / "thresholds.json").read_text())["rule"] == "flagged=0.5"
    card = (folder / "README.md").read_text()
    assert "flagged=0.5" in card and card.endswith("## Identity bias\n")
    (folder / "README.md").write_text("my own words")
    run_here(*arguments, "--output_dir", folder, "--do_eval", "--threshold_rule", "flagged=0.25")
    assert (folder / "README.md").read_text() == "my own words"
    assert json.loads((folder / "thresholds.json").read_text()) == chosen


@pytest.fixture
def texts_alone(tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "".join(f"{text}\n" for text, _ in sentences(40)))
    return file


def test_a_trained_teacher_is_distilled_on_texts_without_labels(teacher, files, texts_alone, tmp_path):
    folder = tmp_path / "student"
    arguments = ["--teacher_name_or_path", teacher, *replace_file(files, "train", texts_alone)]
    arguments += ["--ce_weight", 0, "--kl_weight", 1, "--num_train_epochs", 1]
    arguments += ["--layer_strategy", "search", "--search_budget", 30]
    run_here(*arguments, "--output_dir", folder)
    assert {"train_loss_kl", "eval_accuracy"} <= results(folder).keys() and "train_loss_ce" not in results(folder)
    assert read_record(folder)["student"]["layer_strategy"] == "search"


def test_a_train_file_alone_is_enough_with_a_share_to_validate_on(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files[:2], "--validation_split_percentage", 25]
    arguments += ["--num_train_epochs", 1, "--layer_strategy", "random"]
    run_here(*arguments, "--output_dir", tmp_path / "student")
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
    assert capsys.readouterr().out.rstrip().endswith(table_of(folder))


def test_very_long_and_empty_texts_run(teacher, tmp_path):
    rows = [*sentences(20), ("x" * 100_000, "bad"), ("so " * 33_000 + "long", "good"), ("", "good"), (" ", "bad")]
    path = write_csv(tmp_path / "texts.csv", rows)
    arguments = ["--teacher_name_or_path", teacher, "--num_train_epochs", 1, "--output_dir", tmp_path / "student"]
    run_here(*arguments, "--train_file", path, "--validation_file", path, "--test_file", path)
    assert np.isfinite(list(metrics(tmp_path / "student").values())).all()
    assert len(predictions(tmp_path / "student")) == len(rows)


def test_a_tokenizer_without_tokenizer_json_is_used_and_saved_with_the_student(make_teacher, files, tmp_path):
    encoder = Path(make_teacher(["bad", "good"], encoder_only=True))
    for file in encoder.glob("token*"):
        file.unlink()
    words = [*GOOD, *BAD, *NOUNS, "what", "a", "indeed"]
    (encoder / "vocab.txt").write_text("".join(f"{word} 1\n" for word in words))
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = {f"{''.join(parts[:i])} {parts[i]} 1": None for parts in pieces for i in range(1, len(parts))}
    (encoder / "bpe.codes").write_text("\n".join(merges))
    slow = PhobertTokenizer(str(encoder / "vocab.txt"), str(encoder / "bpe.codes"))
    slow.save_pretrained(encoder)
    assert not (encoder / "tokenizer.json").exists() and slow.tokenize("lovely song") == ["lovely", "song"]
    folder = tmp_path / "student"
    run_here("--teacher_name_or_path", encoder, *files, "--max_steps", 1, "--output_dir", folder)
    texts = [text for text, _ in sentences(13, 60)]
    assert AutoTokenizer.from_pretrained(folder)(texts)["input_ids"] == slow(texts)["input_ids"]
    classify = make_pipeline("text-classification", model=str(folder), device="cpu")
    assert [answer["label"] for answer in classify(texts)] == [row["prediction"] for row in predictions(folder)]


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
    assert "--hidden_state_cache_gb" in caplog.text
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
        "ce_weight": 0.5,
        "kl_weight": 0.5,
        "cosine_weight": 0.0,
        "temperature": 2.0,
        "attention_weight": 0.5,
        "relation_weight": 0.25,
        "attention_divergence": "kl",
        "temperature at the end": 1,
    }
    card = (tmp_path / "run" / "README.md").read_text()
    for name in ("relation_weight", "temperature at the end"):
        assert f"`{name}`: {loss[name]}" in card


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
    monkeypatch.setattr(run_distillation, "load_teacher", lambda *args: pytest.fail("the teacher is not needed"))
    (folder / "predictions_test.csv").unlink()
    # As with the argument file of the run: losses that need a teacher do not matter any more.
    losses = ["--hidden_weight", 1, "--relation_weight", 1]
    run_here("--output_dir", folder, "--do_eval", "--do_predict", *losses, *files)
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert metrics(folder) == pytest.approx(expected)
    assert len(predictions(folder)) == 13


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
    assert (one["student"]["layers"], two["student"]["layers"]) == ([1, 2], [1, 3])
    assert two["teacher"]["results"]["train_loss_ce"] == one["teacher"]["results"]["train_loss_ce"]


# ---- Repeated runs ----


def test_a_finished_run_is_kept_unless_it_may_be_overwritten(teacher, files, tmp_path, monkeypatch):
    folder = tmp_path / "student"
    arguments = ["--teacher_name_or_path", teacher, "--num_train_epochs", 1, "--save_strategy", "no", *files]
    record = run_here(*arguments, "--output_dir", folder)
    first = weights(folder), metrics(folder), predictions(folder)
    assert read_record(folder)["student"]["layers"] == [1, 3]  # `odd` by default
    (folder / "checkpoint-900").mkdir()
    (folder / "predictions_old.csv").touch()
    before = tree(folder)
    with monkeypatch.context() as patch:
        patch.delattr("transformers.Trainer.train")
        elsewhere = ["--logging_steps", 3, "--teacher_cache_dir", tmp_path / "cache"]
        assert run_here(*arguments, "--output_dir", folder, *elsewhere) == record
        assert tree(folder) == before
        moved = folder.rename(tmp_path / "moved")
        assert run_here(*arguments, "--output_dir", moved) == record
        moved.rename(folder)
        # Another process finishes the run just before this one begins it.
        patch.setattr(run_distillation, "check_teacher", lambda *args: shutil.copytree(folder, tmp_path / "late"))
        assert run_here(*arguments, "--output_dir", tmp_path / "late") == record
    assert tree(folder) == before
    assert_refused(
        [*arguments, "--layer_strategy", "top"], folder, str(folder), "layer_strategy (not given there, top"
    )

    torch.rand(5)  # the random state before the second run is another one
    run_here(*arguments, "--output_dir", folder, "--overwrite_output_dir")
    assert (weights(folder), metrics(folder), predictions(folder)) == first
    assert not (folder / "checkpoint-900").exists() and not (folder / "predictions_old.csv").exists()
    run_here(*arguments, "--layer_strategy", "top", "--output_dir", folder, "--overwrite_output_dir")
    assert read_record(folder)["student"]["layers"] == [1, 2] and weights(folder) != first[0]


def test_a_run_depends_on_more_than_its_command(teacher, files, tmp_path, monkeypatch):
    """On the weights that the teacher's folder holds, and on what is left to the hardware or to other settings."""
    folder, changing = tmp_path / "student", Path(shutil.copytree(teacher, tmp_path / "teacher"))
    arguments = ["--teacher_name_or_path", changing, "--num_train_epochs", 1, "--save_strategy", "no", *files]
    arguments += ["--eval_strategy", "steps"]
    run_here(*arguments, "--output_dir", folder)
    with monkeypatch.context() as patch:
        patch.delattr("transformers.Trainer.train")
        run_here(*arguments, "--logging_steps", 7, "--output_dir", folder)  # evaluates at other steps, and no more
    record = RunRecord.read(folder)
    replace(record, circumstances={**record.circumstances, "bf16": True}).write(folder)  # as on other hardware
    assert_refused(arguments, folder, "bf16 (True there, False here)")
    record.write(folder)
    model = AutoModelForSequenceClassification.from_pretrained(changing)
    before = fingerprint_model(model)
    model.classifier.weight.data += 1
    model.save_pretrained(changing)
    assert_refused(arguments, folder, f"teacher ({before} there, {fingerprint_model(model)} here)")


def test_pushing_uploads_the_student_alone_and_once(teacher, files, tmp_path, monkeypatch):
    uploads, cards, repositories, folder = [], [], [], tmp_path / "student"

    def create_repository(name, **kwargs):
        repositories.append(name)
        return SimpleNamespace(repo_id=f"me/{name}")

    monkeypatch.setattr(hub, "upload_folder", lambda **kwargs: uploads.append(kwargs))
    monkeypatch.setattr(hub, "upload_file", lambda **kwargs: cards.append(kwargs["path_or_fileobj"].decode()))
    monkeypatch.setattr(hub, "create_repo", create_repository)
    arguments = ["--teacher_name_or_path", teacher, "--num_train_epochs", 1, *files, "--save_strategy", "epoch"]
    arguments += ["--teacher_cache_dir", folder / "outputs [1]", "--output_dir", folder, "--push_to_hub"]
    record = run_here(*arguments)
    assert repositories == ["student"]
    (upload,) = uploads
    assert upload["repo_id"] == "me/student"
    content = [str(path.relative_to(folder)) for path in tree(folder)] + ["export/config.json"]
    content += ["export/unfinished_export/config.json"]
    sent = set(filter_repo_objects(content, ignore_patterns=upload["ignore_patterns"]))
    assert {"model.safetensors", "config.json", "tokenizer.json", "distillation.json", "export/config.json"} <= sent
    assert {"export"} == {Path(name).parts[0] for name in sent if "/" in name}
    assert not sent & {"training_args.bin", "README.md", ".run.lock", "export/unfinished_export/config.json"}

    # A finished run is uploaded as it is, with a card that was changed by hand too.
    (folder / "export").mkdir()
    before = tree(folder)
    assert run_here(*arguments, "--hub_model_id", "other") == record
    assert tree(folder) == before
    (folder / "README.md").write_text("my own words")
    run_here(*arguments)
    assert [upload["repo_id"] for upload in uploads] == ["me/student", "me/other", "me/student"]
    assert 'model="me/student"' in cards[0] and cards[1:] == [
        cards[0].replace("me/student", "me/other"),
        "my own words",
    ]
    assert (folder / "README.md").read_text() == "my own words"


# ---- Bad input: a case for every step of a run; the others are in the tests of what they use ----


def replace_file(arguments, split, path):
    position = arguments.index(f"--{split}_file") + 1
    return [*arguments[:position], str(path), *arguments[position + 1 :]]


def assert_refused(arguments, output_dir, *parts):
    """The run ends in an error for users whose message has these parts, and changes nothing."""
    before, existed = tree(output_dir), Path(output_dir).exists()
    with pytest.raises(UserError) as error:
        run_here(*arguments, "--output_dir", output_dir)
    assert [part for part in parts if part not in str(error.value)] == [], error.value
    assert Path(output_dir).exists() == existed
    assert tree(output_dir) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--temperature", "0"], ["temperature", "0.0"]),
        (["--text_column_name", "comment"], ["comment", "text, label"]),
        (["--label_order", "good,bad"], ["--label_order bad,good"]),
        (["--per_device_train_batch_size", "64", "--dataloader_drop_last"], ["40 examples make no full batch of 64"]),
        (["--layers", "2,13"], ["--layers", "13", "2,13"]),
        (["--layer_strategy", "odd", "--num_student_layers", "3"], ["odd", "3", "uniform"]),
        (["--do_predict"], ["--output_dir", "--do_train"]),
    ],
    ids=["a check of one argument", "data", "teacher", "no full batch", "layers", "strategy", "evaluation alone"],
)
def test_wrong_arguments_are_refused(teacher, files, tmp_path, arguments, parts):
    assert_refused(["--teacher_name_or_path", teacher, *files, *arguments], tmp_path / "student", *parts)


def test_wrong_files_are_refused(teacher, files, tmp_path):
    path = tmp_path / "validation.csv"
    path.write_text("text,label\na,good\nb,ugly\n")
    arguments = ["--teacher_name_or_path", teacher, *replace_file(files, "validation", path)]
    assert_refused(arguments, tmp_path / "student", str(path), "ugly")


DIVERGING = ["--num_train_epochs", 2, "--per_device_train_batch_size", 8, "--logging_steps", 1, "--max_grad_norm", 0]


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_student_that_has_diverged_is_no_finished_run(with_labels, teacher, files, texts_alone, tmp_path):
    folder = tmp_path / "student"
    arguments = ["--teacher_name_or_path", teacher, *DIVERGING, "--output_dir", folder]
    losses = ["--ce_weight", 0, "--kl_weight", 1]
    arguments += files if with_labels else [*replace_file(files, "train", texts_alone), *losses]
    with pytest.raises(UserError, match="student has learned nothing.*lower learning rate"):
        run_here(*arguments, "--learning_rate", 1e30)
    assert read_record(folder) is None and not (folder / "model.safetensors").exists()
    run_here(*arguments, "--overwrite_output_dir")
    assert np.isfinite(results(folder)["eval_loss"])


def test_a_teacher_that_has_diverged_is_not_kept(make_teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], encoder_only=True), *files, *DIVERGING]
    with pytest.raises(UserError, match="teacher has learned nothing.*lower --teacher_learning_rate"):
        run_here(*arguments, "--teacher_learning_rate", 1e30, "--output_dir", tmp_path)
    assert not (tmp_path / "teacher" / "model.safetensors").exists()


def test_a_teacher_without_numbers_for_answers_is_refused(teacher, files, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    model.classifier.bias.data[0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "nan")
    arguments = ["--teacher_name_or_path", tmp_path / "nan", *files, "--output_dir", tmp_path / "student"]
    with pytest.raises(UserError, match="Choose another --teacher_name_or_path"):
        run_here(*arguments, "--ce_weight", 1, "--kl_weight", 0)


def test_texts_without_labels_are_refused_where_something_learns_from_labels(
    teacher, make_teacher, files, texts_alone, tmp_path
):
    files = replace_file(files, "train", texts_alone)
    arguments = ["--teacher_name_or_path", teacher, *files]
    assert_refused(arguments, tmp_path / "student", "--ce_weight 0", "--kl_weight 1")
    new_head = ["--teacher_name_or_path", make_teacher(["bad", "good"], encoder_only=True), *files]
    arguments = [*new_head, "--ce_weight", 0, "--kl_weight", 1]
    assert_refused(arguments, tmp_path / "student", "--teacher_name_or_path")


@pytest.mark.parametrize(
    ("labels", "names", "known"),
    [
        (["bad", "good"], ["bad", "good"], "accuracy, macro_f1, f1_bad, f1_good, matthews_correlation, roc_auc"),
        ([["bad"], ["bad", "good"]], ["bad", "good"], "accuracy, macro_f1, micro_f1, f1_bad, f1_good, roc_auc"),
        ([0.25, 1.0], ["LABEL_0"], "mse, pearson, spearmanr"),
    ],
    ids=["single-label", "multi-label", "regression"],
)
def test_a_metric_that_the_evaluations_do_not_give_is_refused(make_teacher, tmp_path, labels, names, known):
    rows = [{"text": text, "labels": labels[i % 2]} for i, (text, _) in enumerate(sentences(8))]
    file = write_json_lines(tmp_path / "rows.jsonl", rows)
    arguments = ["--teacher_name_or_path", make_teacher(names), "--train_file", file, "--validation_file", file]
    arguments += ["--eval_strategy", "epoch", "--max_steps", 1, "--metric_for_best_model"]
    assert_refused([*arguments, "f2"], tmp_path / "student", "--metric_for_best_model f2", f"loss, {known}")
    run_here(*arguments, f"eval_{known.split(', ')[0]}", "--output_dir", tmp_path / "student")


def test_the_cosine_loss_is_refused_for_a_regression_before_anything_is_trained(make_teacher, tmp_path):
    rows = [{"text": text, "label": i / 4} for i, (text, _) in enumerate(sentences(8))]
    file = write_json_lines(tmp_path / "scores.jsonl", rows)
    arguments = ["--teacher_name_or_path", make_teacher(["LABEL_0"]), "--train_file", file, "--validation_file", file]
    assert_refused([*arguments, "--cosine_weight", 1], tmp_path / "student", "cosine")


def test_a_folder_that_is_not_a_run_of_ours_is_refused_and_left_untouched(teacher, files, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    assert_refused(["--teacher_name_or_path", teacher, *files], tmp_path / "thesis", "--output_dir", "thesis")


def test_a_run_of_ours_survives_a_wrong_command(finished, teacher, files):
    assert_refused(["--teacher_name_or_path", teacher, *files, "--layers", "2,13"], finished[0], "2,13")
