"""Tests of `run_lora.py` from the command line to the files it leaves, on tiny teachers."""

import json
import multiprocessing
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from peft.utils import load_peft_weights
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from transformers import pipeline as make_pipeline

import run_comparison
import run_distillation
import run_lora
from layer_distillation.errors import UserError
from lora_adapters.loading import load_adapter
from tests.forked_runs import run_forked
from tests.script_runs import (
    metrics,
    predictions,
    read_record,
    results,
    run_elsewhere,
    run_main,
    sentences,
    tree,
)
from training.lora import save_merged
from training.output_folder import FolderInUseError, claimed_folder

pytestmark = pytest.mark.usefixtures("script_caches")

run_here = partial(run_main, run_lora)
TEXTS = [text for text, _ in sentences(13, 60)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_teacher, files):
    """Folder and outputs of one run with a teacher that the run fine-tunes itself."""
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    encoder = make_teacher(["bad", "good"], encoder_only=True)
    arguments = ["--teacher_name_or_path", encoder, *files, "--output_dir", folder, "--layers", "4,2"]
    arguments += ["--num_train_epochs", 3, "--teacher_num_train_epochs", 1, "--lora_r", 2, "--merge_adapter"]
    arguments += ["--learning_rate", 0.01, "--per_device_train_batch_size", 8]
    process = run_elsewhere(*arguments, script=run_lora.__file__)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout, process.stderr


def logits_of(model, folder):
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_the_folder_holds_an_adapter_and_no_weights_of_the_student(finished):
    folder, _, _ = finished
    names = {path.name for path in folder.iterdir()}
    expected = {"adapter_model.safetensors", "adapter_config.json", "config.json", "tokenizer.json", "README.md"}
    expected |= {f"{name}_results.json" for name in ("train", "eval", "predict", "all")}
    assert expected | {"distillation.json", "predictions_test.csv", "trainer_state.json", "merged"} <= names
    assert "model.safetensors" not in names
    adapted = {name.split(".layer.")[1].split(".lora_")[0] for name in load_peft_weights(folder) if ".lora_" in name}
    assert len(adapted) == 2 * 6


LOAD_AND_PREDICT = """
import json, sys
from transformers import pipeline
from lora_adapters.loading import load_adapter

folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = load_adapter(folder).merge_and_unload()
classify = pipeline("text-classification", model=model, tokenizer=folder, device="cpu")
print(json.dumps([answer["label"] for answer in classify(texts)]))
"""


def test_another_process_loads_the_adapter_from_a_moved_folder_and_predicts_what_the_run_predicted(finished, tmp_path):
    folder, _, _ = finished
    shutil.copytree(folder, tmp_path / "moved")  # with the teacher in it
    (tmp_path / "script.py").write_text(LOAD_AND_PREDICT)
    process = run_forked(tmp_path / "script.py", tmp_path / "moved", json.dumps(TEXTS))
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [row["prediction"] for row in predictions(folder)]


def test_the_merged_checkpoint_is_a_plain_one_with_the_adapters_logits(finished):
    folder, _, _ = finished
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    assert type(merged) is BertForSequenceClassification
    assert merged.config.num_hidden_layers == 2
    assert merged.config.id2label == {0: "bad", 1: "good"}
    expected = logits_of(load_adapter(folder), folder)
    torch.testing.assert_close(logits_of(merged, folder), expected, atol=1e-5, rtol=0)
    recorded = [[float(row["logit_bad"]), float(row["logit_good"])] for row in predictions(folder)]
    torch.testing.assert_close(expected, torch.tensor(recorded), atol=1e-4, rtol=0)
    classify = make_pipeline("text-classification", model=str(folder / "merged"), device="cpu")
    assert [answer["label"] for answer in classify(TEXTS)] == [row["prediction"] for row in predictions(folder)]


def test_the_record_says_what_was_trained(finished):
    folder, stdout, stderr = finished
    record = read_record(folder)
    assert record["method"] == "lora"
    assert record["loss"] == {"ce_weight": 1.0, "kl_weight": 0.0, "cosine_weight": 0.0, "temperature": 2.0}
    student = record["student"]
    hidden = 32
    head = hidden * hidden + hidden + 2 * hidden + 2
    adapters = 2 * 2 * (4 * 2 * hidden + 2 * (hidden + 64))
    assert student["trainable_parameters"] == student["adapter"]["trainable_parameters"] == adapters + head
    assert student["parameters"] == student["adapter"]["total_parameters"] - adapters
    assert student["layers"] == [4, 2]
    assert (student["adapter"]["lora_r"], student["adapter"]["use_dora"]) == (2, False)
    assert record["teacher_folder"] == "teacher"
    assert stdout.count(f"{adapters + head:,} of {student['adapter']['total_parameters']:,}") == 1
    assert f"{adapters + head:,}" in stderr


def test_training_goes_by_the_labels_alone_and_no_teacher_outputs_are_stored(finished):
    folder, _, _ = finished
    assert "train_loss_kl" not in results(folder)
    assert results(folder)["train_loss"] == pytest.approx(results(folder)["train_loss_ce"])
    assert not list(folder.rglob("*.arrow"))


def test_an_existing_adapter_is_evaluated_and_merged_and_left_alone(finished, files, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("merged"))
    before, expected = tree(folder), metrics(folder)
    (folder / "predictions_test.csv").unlink()
    run_here("--output_dir", folder, "--do_eval", "--do_predict", "--merge_adapter", *files)
    assert (folder / "merged" / "model.safetensors").is_file()
    assert metrics(folder) == pytest.approx(expected, abs=1e-4)
    after = tree(folder)
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed <= {f"{name}_results.json" for name in ("eval", "predict", "all")} | {"predictions_test.csv"}


@pytest.mark.parametrize("script", [run_lora, run_distillation])
def test_a_run_whose_folder_another_process_works_in_is_not_loaded_to_be_evaluated(
    finished, files, tmp_path, monkeypatch, script
):
    folder = tmp_path / "adapter"
    shutil.copytree(finished[0], folder)
    monkeypatch.setattr(script, "load_inputs", lambda *args: pytest.fail("the folder is read"))
    forked = multiprocessing.get_context("fork")
    holds, ends = forked.Event(), forked.Event()
    other = forked.Process(target=work_in, args=(folder, holds, ends))
    other.start()
    assert holds.wait(60)
    with pytest.raises(FolderInUseError, match=f"--output_dir {folder}"):
        run_main(script, "--output_dir", folder, "--do_eval", *files)
    ends.set()
    other.join(60)
    assert other.exitcode == 0


def work_in(folder, holds, ends):
    with claimed_folder(folder):
        holds.set()
        ends.wait(60)


def test_distillation_comes_on_top_where_it_is_given_a_weight(teacher, files, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "adapter"
    arguments = ["--teacher_name_or_path", teacher, *files, "--num_train_epochs", 1, "--output_dir", folder]
    run_here(*arguments, "--ce_weight", 0.5, "--kl_weight", 0.5)
    assert read_record(folder)["method"] == "lora_distill"
    assert results(folder)["train_loss_kl"] > 0
    assert (folder / read_record(folder)["teacher_folder"]).resolve() == Path(teacher)

    # The finished adapter is merged later, and stays as it is.
    assert not (folder / "merged").exists()
    (folder / "thresholds.json").write_text("chosen")
    before = tree(folder)
    monkeypatch.delattr("transformers.Trainer.train")
    run_here(*arguments, "--ce_weight", 0.5, "--kl_weight", 0.5, "--merge_adapter")
    assert (folder / "merged" / "model.safetensors").is_file()
    assert {path: content for path, content in tree(folder).items() if "merged" not in path.parts} == before
    assert (folder / "merged" / "thresholds.json").read_text() == "chosen"
    kept = folder / "merged" / "thresholds.json"
    with caplog.at_level("INFO"):
        for thresholds in "chosen", "changed by hand":
            assert str(kept) not in caplog.text
            kept.write_text(thresholds)
            save_merged(folder, AutoTokenizer.from_pretrained(folder))
            assert kept.read_text() == thresholds
    assert str(kept) in caplog.text


@pytest.mark.distributed
def test_two_processes_train_the_adapter_of_one_with_the_same_global_batch(make_teacher, files, tmp_path):
    teacher = make_teacher(["bad", "good"], dropout=0.0)
    arguments = ["--teacher_name_or_path", teacher, *files, "--num_train_epochs", 2, "--lora_dropout", 0]
    arguments += ["--learning_rate", 1e-3, "--save_strategy", "no"]
    run_here(*arguments, "--per_device_train_batch_size", 8, "--output_dir", tmp_path / "one")
    arguments += ["--per_device_train_batch_size", 4, "--output_dir", tmp_path / "two", "--merge_adapter"]
    process = run_elsewhere(*arguments, script=run_lora.__file__, num_processes=2)
    assert process.returncode == 0, process.stderr
    for name in ("train_loss", "eval_loss", "predict_loss"):
        assert results(tmp_path / "two")[name] == pytest.approx(results(tmp_path / "one")[name], rel=1e-3)
    one, two = (load_peft_weights(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=0)
    assert process.stdout.count("| teacher | ") == 1
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two" / "merged")
    loaded = load_adapter(tmp_path / "two").merge_and_unload()
    assert merged.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in merged.state_dict().items())


@pytest.mark.parametrize("script", [run_distillation, run_lora, run_comparison])
def test_a_teacher_that_is_not_to_be_replaced_is_refused_before_anything_is_written(
    script, finished, make_teacher, files, tmp_path
):
    teacher = finished[0] / "teacher"
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], encoder_only=True), *files]
    arguments += ["--teacher_output_dir", teacher, "--teacher_num_train_epochs", 2]
    before = tree(teacher)
    with pytest.raises(UserError, match="num_train_epochs.* --overwrite_teacher"):
        run_main(script, *arguments, "--output_dir", tmp_path / "student")
    assert tree(teacher) == before and not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer_strategy", "random"], "--layer_strategy random"),
        (["--lora_target_modules", "q_lin"], "'q_lin'"),
        (["--lora_r", 0], "lora_r.* 0"),
        (["--do_eval"], "--do_train"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(teacher, files, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run_here("--teacher_name_or_path", teacher, *files, *arguments, "--output_dir", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
