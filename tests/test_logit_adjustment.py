"""Tests of `--logit_adjustment`: the choice on the validation split, and the head that answers accordingly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.metrics import f1_score
from transformers import AutoConfig, AutoModelForSequenceClassification

import run_distillation
import run_lora
from comparison.predictions import Predictions
from comparison.results import TEACHER
from experiments import rare_classes
from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from tests.records import parse_table
from tests.script_runs import predictions, results, run_main, write_csv
from training.logit_adjustment import POWERS, adjusted, best_power, check_can_be_adjusted, class_shares

pytestmark = pytest.mark.usefixtures("script_caches")


@pytest.fixture(scope="module")
def rare_files(tmp_path_factory):
    """Files in which one text of nine is bad (of six for validation), and one or two that look like it are good."""
    folder, arguments = tmp_path_factory.mktemp("rare"), []
    for split, number, one_of in (("train", 72, 9), ("validation", 36, 6), ("test", 9, 9)):
        rows = [("a silly song" if i % 3 else "a kind song", "good" if i % one_of else "bad") for i in range(number)]
        arguments += [f"--{split}_file", write_csv(folder / f"{split}.csv", rows)]
    return arguments


def head_bias(folder):
    (file,) = folder.glob("*model.safetensors")
    return next(tensor.numpy() for name, tensor in load_file(file).items() if name.endswith("classifier.bias"))


def test_answers_are_those_of_probabilities_divided_by_the_shares_of_the_classes():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, size=400, p=[0.05, 0.15, 0.8])
    logits = generator.normal(size=(400, 3)) + 1.2 * np.eye(3)[labels] + [-1, 0, 1]
    shares = class_shares(labels, 3)
    np.testing.assert_allclose(shares, (1 + np.bincount(labels)) / 403)
    scores = [
        f1_score(labels, (softmax(logits, axis=1) / shares**power).argmax(axis=1), average="macro") for power in POWERS
    ]
    assert best_power(logits, labels, shares) == POWERS[np.argmax(scores)] > 0
    assert max(scores) > scores[0] + 0.02
    np.testing.assert_allclose(adjusted(logits, shares, 0.5), logits - 0.5 * np.log(shares))
    assert class_shares(np.array([1, 1]), 3).tolist() == [0.2, 0.6, 0.2]  # not 0, for a class without examples


def test_the_table_of_rare_classes_scores_the_test_split_with_the_power_of_the_validation_split():
    generator = np.random.default_rng(1)
    shares = np.array([0.06, 0.14, 0.8])

    def split(number):
        labels = generator.choice(3, size=number, p=shares)
        logits = generator.normal(size=(number, 3)) + 1.5 * np.eye(3)[labels] + np.log(shares)
        return Predictions.from_logits(logits, labels, SINGLE_LABEL)

    validation, test = split(500), split(900)
    (row,) = parse_table(rare_classes.table({TEACHER: [validation]}, {TEACHER: [test]}, shares, rare=0))
    power = best_power(np.log(validation.probabilities.clip(1e-5)), validation.labels, shares)
    answers = (test.probabilities / shares**power).argmax(axis=1)
    macro = [100 * f1_score(test.labels, found, average="macro") for found in (test.answers, answers)]
    rare = [100 * f1_score(test.labels == 0, found == 0) for found in (test.answers, answers)]
    assert row["t"] == f"{power:.2f}" and macro[1] > macro[0] + 1
    expected = [macro[0], rare[0], macro[1], rare[1]]
    assert [row[name] for name in list(row)[1:] if "(%)" in name] == [f"{value:.1f}" for value in expected]
    assert row["Gain in macro-F1 (points)"].startswith(f"{macro[1] - macro[0]:+.1f} [")


@pytest.mark.parametrize("script", [run_distillation, run_lora])
def test_the_saved_student_gives_the_logits_of_the_plain_one_less_its_share_of_the_log_frequencies(
    script, make_teacher, rare_files, tmp_path
):
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"]), *rare_files, "--max_steps", 18]
    arguments += [
        "--learning_rate",
        0.01,
        "--per_device_train_batch_size",
        8,
        "--student_dropout",
        0,
        "--ce_weight",
        1,
        "--kl_weight",
        0,
    ]
    run_main(script, *arguments, "--output_dir", tmp_path / "plain")
    run_main(script, *arguments, "--logit_adjustment", "--output_dir", tmp_path / "adjusted")
    before, after = results(tmp_path / "plain"), results(tmp_path / "adjusted")
    expected = after["logit_adjustment"] * np.log(class_shares(np.repeat([0, 1], [8, 64]), 2))  # of training
    for row, plain in zip(predictions(tmp_path / "adjusted"), predictions(tmp_path / "plain"), strict=True):
        moved = [float(plain[f"logit_{name}"]) - float(row[f"logit_{name}"]) for name in ("bad", "good")]
        np.testing.assert_allclose(moved, expected, atol=1e-5)
    saved = [head_bias(tmp_path / name) for name in ("plain", "adjusted")]
    np.testing.assert_allclose(saved[0] - saved[1], expected, atol=1e-6)
    assert after["logit_adjustment"] > 0
    assert after["eval_macro_f1"] > before["eval_macro_f1"]
    assert after["train_eval_loss"] != before["train_eval_loss"]  # of the student that is saved


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"problem_type": MULTI_LABEL}, "--threshold_rule"),
        ({"is_soft": True}, "--threshold_rule"),
        ({"train": ["input_ids"]}, "labels of the training examples"),
        ({"validation": ["input_ids"]}, "labels of the validation examples"),
        ({"model_type": "qwen2"}, "Qwen2ForSequenceClassification"),
        ({"deepspeed_plugin": object()}, "DeepSpeed"),
        ({"fsdp": ["full_shard"]}, "FSDP"),
        ({"environment": "ACCELERATE_USE_FSDP"}, "FSDP"),
    ],
)
def test_what_cannot_be_adjusted_is_refused(case, expected, monkeypatch):
    if "environment" in case:
        monkeypatch.setenv(case["environment"], "true")
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "num_labels": 3}
    with torch.device("meta"):
        config = AutoConfig.for_model(case.get("model_type", "bert"), **sizes)
        model = AutoModelForSequenceClassification.from_config(config)
    problem_type, is_soft = case.get("problem_type", SINGLE_LABEL), case.get("is_soft", False)
    train, validation = (
        SimpleNamespace(column_names=case.get(split, ["input_ids", "labels"])) for split in ("train", "validation")
    )
    inputs = SimpleNamespace(
        data=SimpleNamespace(labels=SimpleNamespace(problem_type=problem_type, num_labels=3, is_soft=is_soft)),
        tokenized={"train": train},
        validation=validation,
    )
    args = SimpleNamespace(deepspeed_plugin=case.get("deepspeed_plugin"), fsdp=case.get("fsdp", []))
    with pytest.raises(UserError, match=expected):
        check_can_be_adjusted(model, inputs, args)
