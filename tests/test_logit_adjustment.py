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
from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from tests.script_runs import predictions, results, run_main, write_csv
from training.logit_adjustment import POWERS, adjusted, best_power, check_can_be_adjusted, class_shares

pytestmark = pytest.mark.usefixtures("script_caches")


@pytest.fixture(scope="module")
def rare_files(tmp_path_factory):
    """Files in which one text of nine is bad, and of the texts that look like it two are good."""
    folder, arguments = tmp_path_factory.mktemp("rare"), []
    for split, number in (("train", 72), ("validation", 36), ("test", 9)):
        rows = [("a silly song" if i % 3 else "a kind song", "good" if i % 9 else "bad") for i in range(number)]
        arguments += [f"--{split}_file", write_csv(folder / f"{split}.csv", rows)]
    return arguments


def head_bias(folder):
    (file,) = folder.glob("*model.safetensors")
    return next(tensor.numpy() for name, tensor in load_file(file).items() if name.endswith("classifier.bias"))


def test_answers_are_those_of_probabilities_divided_by_the_shares_of_the_classes():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, size=400, p=[0.05, 0.15, 0.8])
    logits = generator.normal(size=(400, 3)) + 1.2 * np.eye(3)[labels] + [-1, 0, 1]
    shares = (1 + np.bincount(labels)) / 403
    scores = [
        f1_score(labels, (softmax(logits, axis=1) / shares**power).argmax(axis=1), average="macro") for power in POWERS
    ]
    assert best_power(logits, labels) == POWERS[np.argmax(scores)] > 0
    assert max(scores) > scores[0] + 0.02
    np.testing.assert_allclose(adjusted(logits, labels, 0.5), logits - 0.5 * np.log(shares))
    assert class_shares(np.array([1, 1]), 3).tolist() == [0.2, 0.6, 0.2]  # not 0, for a class without examples


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
    expected = after["logit_adjustment"] * np.log(class_shares(np.repeat([0, 1], [4, 32]), 2))
    for row, plain in zip(predictions(tmp_path / "adjusted"), predictions(tmp_path / "plain"), strict=True):
        moved = [float(plain[f"logit_{name}"]) - float(row[f"logit_{name}"]) for name in ("bad", "good")]
        np.testing.assert_allclose(moved, expected, atol=1e-5)
    saved = [head_bias(tmp_path / name) for name in ("plain", "adjusted")]
    np.testing.assert_allclose(saved[0] - saved[1], expected, atol=1e-6)
    assert after["logit_adjustment"] > 0
    assert after["eval_macro_f1"] > before["eval_macro_f1"]
    assert after["train_eval_loss"] != before["train_eval_loss"]  # of the student that is saved


@pytest.mark.parametrize(
    ("model_type", "problem_type", "arguments", "environment", "expected"),
    [
        ("bert", MULTI_LABEL, {}, {}, "--threshold_rule"),
        ("qwen2", SINGLE_LABEL, {}, {}, "Qwen2ForSequenceClassification"),
        ("bert", SINGLE_LABEL, {"deepspeed_plugin": object()}, {}, "DeepSpeed"),
        ("bert", SINGLE_LABEL, {"fsdp": ["full_shard"]}, {}, "FSDP"),
        ("bert", SINGLE_LABEL, {}, {"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
    ],
)
def test_what_cannot_be_adjusted_is_refused(model_type, problem_type, arguments, environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = AutoConfig.for_model(model_type, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, num_labels=3)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    labels = SimpleNamespace(problem_type=problem_type, num_labels=3, is_soft=False)
    inputs = SimpleNamespace(
        data=SimpleNamespace(labels=labels), validation=SimpleNamespace(column_names=["input_ids", "labels"])
    )
    args = SimpleNamespace(**{"deepspeed_plugin": None, "fsdp": []} | arguments)
    with pytest.raises(UserError, match=expected):
        check_can_be_adjusted(model, inputs, args)
