"""Tests of `distill_trainer`: the loss that is logged and followed, what evaluation sees, what the teacher does."""

import math
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.arguments import ONLY_TRAIN, DistillationTrainingArguments, bf16_in_hardware
from layer_distillation.batches import EpochShuffleSampler
from layer_distillation.dropout import set_dropout
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.losses import kl_divergence_loss, task_loss
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from layer_distillation.teacher_outputs import add_teacher_logits
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE
from tests.workers import train_worker
from tests.workers.train_worker import (
    LOSS_WEIGHTS,
    NO_DROPOUT,
    NUM_LABELS,
    SCENARIOS,
    SPLITS,
    arguments,
    bert,
    pad,
    random_examples,
    results_by_configuration,
    step_logs,
    weights,
)

ROOT = Path(__file__).parents[1]
CE_ONLY = {"ce_weight": 1.0, "kl_weight": 0.0}


@pytest.fixture
def build_trainer(tmp_path):
    def build(student=None, teacher=None, train=None, compute_metrics=None, output_dir=tmp_path, **kwargs):
        return DistillationTrainer(
            model=bert(1) if student is None else student,
            teacher_model=teacher,
            args=arguments(output_dir, **kwargs),
            train_dataset=random_examples(17) if train is None else train,
            eval_dataset=random_examples(13, seed=1),
            data_collator=pad,
            compute_metrics=compute_metrics,
        )

    return build


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return results_by_configuration(tmp_path_factory.mktemp("one_process"), 1)


def record_calls(model):
    """A list that grows by the keyword arguments and logits of every forward pass."""
    calls = []
    model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output["logits"])), with_kwargs=True
    )
    return calls


def logits_one_by_one(model, dataset):
    columns = ("input_ids", "attention_mask", "token_type_ids")
    model = model.eval()
    with torch.no_grad():
        rows = [model(**pad([{name: row[name] for name in columns}])).logits[0] for row in dataset]
    return torch.stack(rows)


def plain_loss(model, dataset):
    return torch.nn.functional.cross_entropy(logits_one_by_one(model, dataset), torch.tensor(dataset["labels"])).item()


def assert_same_weights(actual, expected, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    differences = {
        name: ((actual[name] - w).norm() / w.norm()).item() for name, w in expected.items() if w.is_floating_point()
    }
    assert max(differences.values()) <= tolerance, max(differences.items(), key=lambda item: item[1])


def assert_same_steps(actual, expected, tolerance=1e-5):
    for log, expected_log in zip(actual["steps"], expected["steps"], strict=True):
        assert log == pytest.approx(expected_log, rel=tolerance)
    assert_same_weights(actual["weights"], expected["weights"], tolerance)


def assert_same_training(actual, expected, tolerance=1e-5):
    assert_same_steps(actual, expected, tolerance)
    assert actual["metrics"] == pytest.approx(expected["metrics"], rel=tolerance)
    assert actual["predictions"] == pytest.approx(expected["predictions"], rel=1e-4, abs=1e-5)


# ---- the loss ----


def test_logged_loss_is_the_weighted_sum_of_the_logged_components(one_process):
    for (scenario, *_), result in one_process.items():
        weights = LOSS_WEIGHTS | {k: v for k, v in SCENARIOS.get(scenario, {}).items() if k.endswith("_weight")}
        for log in result["steps"]:
            parts = [weight * log[f"loss_{name.removesuffix('_weight')}"] for name, weight in weights.items()]
            assert min(parts) > 0 and log["loss"] == pytest.approx(sum(parts), rel=1e-6)


def test_train_metrics_are_means_over_the_steps(one_process):
    for (scenario, *_), result in one_process.items():
        if "logging_steps" in SCENARIOS.get(scenario, {}):
            continue
        for name in ("loss", "loss_ce", "loss_kl", "loss_cosine"):
            mean = sum(log[name] for log in result["steps"]) / len(result["steps"])
            assert result["metrics"][f"train_{name}"] == pytest.approx(mean, rel=1e-6)


def test_logging_every_few_steps_logs_the_means_since_the_last_log(build_trainer):
    logs = {}
    for logging_steps in (1, 2):
        trainer = build_trainer(teacher=bert(3), num_train_epochs=2, logging_steps=logging_steps)
        train_metrics = trainer.train().metrics
        logs[logging_steps] = step_logs(trainer)
    assert (len(logs[1]), len(logs[2])) == (6, 3)
    for index, log in enumerate(logs[2]):
        for name in ("loss", "loss_ce", "loss_kl"):
            pair = [logs[1][2 * index + offset][name] for offset in (0, 1)]
            assert log[name] == pytest.approx(sum(pair) / 2, rel=1e-6)
    mean = sum(log["loss_kl"] for log in logs[1]) / 6
    assert train_metrics["train_loss_kl"] == pytest.approx(mean, rel=1e-6)


def test_accumulation_changes_neither_logs_nor_weights(one_process):
    (whole, _), (batch_size, accumulation) = SPLITS[1]
    for scenario in SCENARIOS:
        assert_same_training(one_process[scenario, batch_size, accumulation], one_process[scenario, whole, 1])


def test_training_equals_a_plain_pytorch_loop(one_process):
    """The loop knows nothing of the project's losses or of `Trainer`'s handling of batches."""
    result = one_process["17 in order", 4, 4]
    student, teacher = bert(1).train(), bert(3)
    examples = list(random_examples(17))
    temperature, num_steps, learning_rate = 2.0, 4, 1e-3
    decayed = [p for name, p in student.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    others = [p for name, p in student.named_parameters() if "bias" in name or "LayerNorm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
        eps=1e-5,
    )
    step = 0
    for _ in range(2):
        for batch in (examples[:16], examples[16:]):
            inputs = pad(batch)
            labels = inputs.pop("labels")
            logits = student(**inputs).logits
            with torch.no_grad():
                teacher_logits = teacher(**inputs).logits
            ce = -logits.log_softmax(-1)[range(len(batch)), labels].mean()
            p, q = (teacher_logits / temperature).softmax(-1), (logits / temperature).softmax(-1)
            kl = temperature**2 * (p * (p / q).log()).sum(-1).mean()
            cosine = (
                1 - (logits * teacher_logits).sum(-1) / (logits.norm(dim=-1) * teacher_logits.norm(dim=-1))
            ).mean()
            loss = 0.3 * ce + 0.6 * kl + 0.2 * cosine

            optimizer.zero_grad()
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            # One step of warm-up (6 % of four, rounded up) from 0, then linearly down to 0.
            lr = learning_rate * (step if step < 1 else (num_steps - step) / (num_steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            expected = {"loss": loss, "loss_ce": ce, "loss_kl": kl, "loss_cosine": cosine, "grad_norm": grad_norm}
            log = {name: result["steps"][step][name] for name in expected}
            assert log == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)
            assert result["steps"][step]["learning_rate"] == pytest.approx(lr)
            step += 1
    assert step == len(result["steps"]) == num_steps
    assert_same_weights(result["weights"], weights(student))


def test_stock_trainer_multiplies_the_loss_by_the_accumulation_steps_and_this_one_does_not(build_trainer, tmp_path):
    """The reason for `loss_is_scaled_for_ga`. Should the first half fail one day, `Trainer` has been mended."""
    examples, plain = random_examples(16), plain_loss(bert(1), random_examples(16))
    common = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    args = {"logging_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    stock = Trainer(
        model=bert(1),
        args=TrainingArguments(output_dir=str(tmp_path), **args, **common),
        train_dataset=examples,
        data_collator=pad,
    )
    stock.train()
    assert step_logs(stock)[0]["loss"] == pytest.approx(4 * plain, rel=1e-5)

    ours = build_trainer(train=examples, **CE_ONLY, **common)
    ours.train()
    assert step_logs(ours)[0]["loss"] == pytest.approx(plain, rel=1e-5)
    assert step_logs(ours)[0]["grad_norm"] == pytest.approx(step_logs(stock)[0]["grad_norm"] / 4, rel=1e-4)


def test_label_smoothing_smooths_training_but_not_evaluation(build_trainer):
    trainer = build_trainer(train=random_examples(8), max_steps=1, label_smoothing_factor=0.3, **CE_ONLY)
    logits, labels = logits_one_by_one(bert(1), trainer.train_dataset), torch.tensor(trainer.train_dataset["labels"])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain_loss(bert(1), trainer.eval_dataset), rel=1e-5)
    trainer.train()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3).item()
    assert step_logs(trainer)[0]["loss"] == pytest.approx(expected, rel=1e-5)


# ---- evaluation ----


def test_eval_loss_is_the_plain_task_loss_whatever_the_weights(build_trainer):
    trainer = build_trainer(
        teacher=bert(3),
        ce_weight=3.0,
        cosine_weight=2.0,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=2,
        gradient_accumulation_steps=2,
    )
    plain = plain_loss(bert(1), trainer.eval_dataset)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain, rel=1e-5)
    trainer.train()
    # Also between the steps of a training with accumulation.
    evaluations = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(evaluations) == 2
    assert evaluations[-1] == pytest.approx(plain_loss(trainer.model, trainer.eval_dataset), rel=1e-5)


def test_predictions_and_metrics_see_the_logits_in_the_order_of_the_data(build_trainer):
    seen = []
    student = bert(1, output_hidden_states=True, output_attentions=True, attn_implementation="eager")
    trainer = build_trainer(
        student, teacher=bert(3), compute_metrics=lambda prediction: seen.append(prediction) or {"n": 1}
    )
    assert trainer.args.train_sampling_strategy == "group_by_length"
    examples = trainer.eval_dataset
    expected = pytest.approx(logits_one_by_one(bert(1), examples).numpy(), rel=1e-4, abs=1e-5)
    output = trainer.predict(examples)
    assert output.metrics["test_n"] == 1
    for predictions, label_ids in ((output.predictions, output.label_ids), (seen[0].predictions, seen[0].label_ids)):
        assert predictions == expected and label_ids.tolist() == examples["labels"]
    unlabelled = trainer.predict(examples.remove_columns("labels"))
    assert unlabelled.predictions == expected
    assert unlabelled.label_ids is None and "test_loss" not in unlabelled.metrics


def test_predictions_of_a_model_with_encoder_and_decoder_are_its_logits_alone(build_trainer):
    student = tiny_classifier("bart").eval()
    examples = Dataset.from_dict(
        {"input_ids": [[5, 6, 2], [7, 8, 2]], "attention_mask": [[1] * 3] * 2, "labels": [0, 1]}
    )
    with torch.no_grad():
        expected = student(torch.tensor(examples["input_ids"])).logits.numpy()
    trainer = build_trainer(student, **CE_ONLY)
    for split in (examples, examples.remove_columns("labels")):
        assert trainer.predict(split).predictions == pytest.approx(expected, abs=1e-5)


# ---- the teacher ----


def test_teacher_is_frozen_unchanged_and_outside_optimizer_and_checkpoint(build_trainer, tmp_path):
    teacher = bert(3, dropout=True).train()
    before = fingerprint_model(teacher)
    trainer = build_trainer(teacher=teacher, save_strategy="steps", save_steps=2, max_steps=3)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert fingerprint_model(teacher) == before
    optimized = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in trainer.model.parameters()}
    for folder in (tmp_path / "checkpoint-2", tmp_path / "final"):
        saved = load_file(folder / "model.safetensors")
        assert saved.keys() == bert(1).state_dict().keys()
        assert not any("teacher" in path.name for path in folder.iterdir())


def test_teacher_runs_once_a_micro_batch_in_training_and_never_in_evaluation(build_trainer):
    teacher = bert(3)
    calls = record_calls(teacher)
    trainer = build_trainer(
        teacher=teacher,
        eval_strategy="steps",
        eval_steps=1,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset.remove_columns("labels"))
    assert not calls
    trainer.train()
    assert len([log for log in trainer.state.log_history if "eval_loss" in log]) == 3
    assert [len(logits) for _, logits in calls] == [4, 4, 4, 4, 1]
    assert all("labels" not in inputs and not logits.requires_grad for inputs, logits in calls)


def test_teacher_does_not_run_when_its_logits_do_not_count(build_trainer):
    teacher = bert(3)
    calls = record_calls(teacher)
    build_trainer(teacher=teacher, max_steps=1, **CE_ONLY).train()
    assert not calls


def test_stored_logits_give_the_steps_of_a_teacher_that_is_then_not_called(build_trainer, tmp_path):
    examples, teacher = random_examples(64), bert(3)
    settings = LOSS_WEIGHTS | {"num_train_epochs": 2}
    in_step = build_trainer(teacher=teacher, train=examples, **settings)
    in_step.train()
    expected = [log["loss"] for log in step_logs(in_step)]
    assert expected[-1] < expected[0]
    cached = add_teacher_logits(examples, teacher, tmp_path / "cache", pad, batch_size=10)
    calls = record_calls(teacher)
    for teacher_model in (None, teacher):
        stored = build_trainer(teacher=teacher_model, train=cached, **settings)
        stored.train()
        assert [log["loss"] for log in step_logs(stored)] == pytest.approx(expected, rel=0, abs=1e-6)
        assert_same_weights(weights(stored.model), weights(in_step.model))
    assert not calls


def test_the_loss_is_computed_without_waiting_for_a_value_and_its_components_are_read_when_logged(
    build_trainer, monkeypatch
):
    reads = []

    def recorded(method):
        def read(*args):
            reads.append(method)
            return method(*args)

        return read

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, recorded(getattr(torch.Tensor, name)))
    trainer, batch = build_trainer(**LOSS_WEIGHTS), pad(list(random_examples(8)))
    reads.clear()
    trainer.model.train()(**batch)
    of_the_model = len(reads)
    batch["teacher_logits"] = torch.zeros(8, NUM_LABELS)
    reads.clear()
    trainer.training_step(trainer.model, batch, trainer._get_num_items_in_batch([batch], "cpu"))
    assert len(reads) == of_the_model
    trainer.log({"loss": 0.0})
    assert len(reads) > of_the_model


def test_a_compiled_student_takes_the_same_steps_and_is_saved_as_a_plain_checkpoint(build_trainer, tmp_path):
    # Batches of one shape, so that the student is traced once for training and once for evaluation.
    examples = random_examples(8)
    settings = {**LOSS_WEIGHTS, "train": examples, "max_steps": 2, "per_device_eval_batch_size": 8}
    plain = build_trainer(teacher=bert(3), **settings)
    plain.train()
    # Without code generation, which takes minutes: the wrapping is what can go wrong here.
    compiled = build_trainer(teacher=bert(3), torch_compile=True, torch_compile_backend="eager", **settings)
    compiled.train()
    for log, expected in zip(step_logs(compiled), step_logs(plain), strict=True):
        assert log == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert compiled.evaluate(examples)["eval_loss"] == pytest.approx(plain.evaluate(examples)["eval_loss"], rel=1e-5)
    compiled.save_model(tmp_path / "student")
    assert load_file(tmp_path / "student" / "model.safetensors").keys() == weights(plain.model).keys()


def test_teacher_computes_in_the_precision_of_the_student(build_trainer):
    teacher, student = bert(3), bert(1)
    teacher_calls, student_calls = record_calls(teacher), record_calls(student)
    build_trainer(student, teacher=teacher, max_steps=1, bf16=True).train()
    teacher_logits, student_logits = teacher_calls[0][1], student_calls[0][1]
    assert teacher_logits.dtype == torch.bfloat16
    # Accelerate turns the outputs of the models that it has prepared back into float32.
    assert torch.equal(student_logits, student_logits.bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_teacher_in_half_precision_runs_beside_a_student_in_bfloat16(build_trainer, dtype):
    logits = [logits_one_by_one(bert(n), random_examples(17)) for n in (1, 3)]
    trainer = build_trainer(teacher=bert(3).to(dtype), bf16=True, max_steps=1, per_device_train_batch_size=17)
    log = first_step(trainer)
    assert log["loss_kl"] == pytest.approx(kl_divergence_loss(*logits, 2.0).mean().item(), rel=0.1)


def test_weights_of_a_teacher_in_every_step_may_be_half_as_wide(build_trainer):
    trainer = build_trainer(teacher=bert(3), teacher_dtype="bfloat16", max_steps=2)
    assert {parameter.dtype for parameter in trainer.teacher_model.parameters()} == {torch.bfloat16}
    assert math.isfinite(trainer.train().metrics["train_loss_kl"])
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_bert_teacher_reads_the_token_types_that_its_distilbert_student_lacks(build_trainer):
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    student, teacher = TINY_CLASSIFIERS["distilbert"](1, NUM_LABELS, **no_dropout), bert(3)
    student_calls, teacher_calls = record_calls(student), record_calls(teacher)
    train = random_examples(8)
    trainer = build_trainer(student, teacher=teacher, train=train, max_steps=1, ce_weight=0.0, kl_weight=1.0)
    trainer.evaluate()
    trainer.train()
    assert len(student_calls) == 5 and len(teacher_calls) == 1
    assert all(inputs.keys() == {"input_ids", "attention_mask"} for inputs, _ in student_calls)
    token_types = teacher_calls[0][0]["token_type_ids"]
    assert token_types.sum() == sum(map(sum, train["token_type_ids"]))


# ---- settings and inputs that cannot work ----


def test_a_derived_copy_changes_what_is_asked_for_and_leaves_the_original_alone(tmp_path):
    args = arguments(tmp_path, kl_weight=0.7, hidden_weight=0.2, linear_to={"kl_weight": 0, "temperature": 1})
    trial = args.without_losses("kl", "hidden").derived(max_steps=5, **ONLY_TRAIN)
    assert (trial.kl_weight, trial.hidden_weight, trial.linear_to) == (0, 0, {"temperature": 1})
    assert (trial.max_steps, trial.save_strategy, trial.ce_weight) == (5, "no", args.ce_weight)
    labels_alone = args.for_labels_alone()
    assert labels_alone.ce_weight == 1 and not labels_alone.needs_teacher
    assert (args.kl_weight, args.hidden_weight, args.max_steps) == (0.7, 0.2, -1)
    assert args.linear_to == {"kl_weight": 0, "temperature": 1}
    with pytest.raises(TypeError, match="epochs"):
        args.derived(epochs=2)


REENTRANT = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ce_weight": -0.1}, "--ce_weight .* -0.1"),
        ({"kl_weight": math.nan}, "--kl_weight .* nan"),
        ({"cosine_weight": math.inf}, "--cosine_weight .* inf"),
        ({"linear_to": {"hidden_weight": -1.0}}, "--hidden_weight .* -1"),
        ({"ce_weight": 0.0, "kl_weight": 0.0}, "--ce_weight, --kl_weight, .* all 0"),
        ({"linear_to": {"ce_weight": 0.0, "kl_weight": 0.0}}, "--ce_weight, --kl_weight, .* all 0"),
        ({"temperature": 0.0}, "--temperature .* 0"),
        ({"temperature": math.nan}, "--temperature .* nan"),
        ({"linear_to": {"temperature": -2.0}}, "--temperature .* -2"),
        ({"linear_to": {"learning_rate": 0.0}}, "--linear_to .* ce_weight, .*temperature, found .*learning_rate"),
        ({"linear_to": "kl_weight=0"}, "--linear_to .* JSON .* 'kl_weight=0'"),
        ({"hidden_tokens": "frist"}, "--hidden_tokens .* all, first, found frist"),
        ({"attention_divergence": "ce"}, "--attention_divergence .* kl, mse, found ce"),
        ({"relation_heads": 0}, "--relation_heads .* 0"),
        ({"relation_weight": 1.0, "torch_compile_backend": "eager"}, "--relation_weight .* --torch_compile"),
        ({"linear_to": {"relation_weight": 1.0}, "torch_compile": True}, "--relation_weight .* --torch_compile"),
        ({"attention_weight": 1.0, **REENTRANT}, "--attention_weight.* `use_reentrant`"),
        ({"linear_to": {"relation_weight": 1.0}, **REENTRANT}, "--relation_weight.* `use_reentrant`"),
        ({"train_sampling_strategy": "batch_rebalance"}, "--train_sampling_strategy batch_rebalance"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        arguments(tmp_path, **values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_labels": 4}, "teacher .* 4 labels .* student 3"),
        ({"id2label": {0: "b", 1: "a", 2: "c"}}, "teacher's labels are .*'b'"),
        ({"vocab_size": VOCAB_SIZE + 1}, "129 .* 128"),
        ({"problem_type": MULTI_LABEL}, f"{MULTI_LABEL}.* {SINGLE_LABEL}"),
    ],
    ids=["number of labels", "names of labels", "vocabulary", "problem type"],
)
def test_teacher_that_does_not_match_the_student_is_refused(build_trainer, change, message):
    student, teacher = bert(1), bert(3)
    student.config.problem_type = SINGLE_LABEL
    for name, value in change.items():
        setattr(teacher.config, name, value)
    with pytest.raises(UserError, match=message):
        build_trainer(student, teacher=teacher)


@pytest.mark.parametrize("shared", ["model", "layer", "weight", "memory", "frozen block", "dropout"])
def test_a_student_that_holds_parts_of_its_teacher_is_refused(build_trainer, shared):
    student, teacher = bert(1), bert(3)
    set_dropout(teacher, 0.1)
    if shared == "model":
        student = teacher
    elif shared == "layer":
        student.bert.encoder.layer[0] = teacher.bert.encoder.layer[1]
    elif shared == "weight":
        student.bert.pooler.dense.weight = teacher.bert.pooler.dense.weight
    elif shared == "memory":
        student.classifier.load_state_dict(teacher.classifier.state_dict(), assign=True)
    elif shared == "dropout":
        student.dropout = teacher.dropout
    else:  # whose dropout would be that of the teacher too
        student.bert.embeddings = teacher.bert.embeddings.requires_grad_(False)
    with pytest.raises(UserError, match="`build_student`, .* `copy.deepcopy"):
        build_trainer(student, teacher=teacher)
    assert shared == "frozen block" or all(parameter.requires_grad for parameter in teacher.parameters())


def test_frozen_word_embeddings_may_be_those_of_the_teacher(build_trainer):
    logs = []
    for are_shared in (False, True):
        student, teacher = bert(3), bert(3)
        student.bert.embeddings.word_embeddings.requires_grad_(False)
        if are_shared:
            teacher.bert.embeddings.word_embeddings = student.bert.embeddings.word_embeddings
        trainer = build_trainer(student, teacher=teacher, max_steps=2)
        trainer.train()
        logs.append(step_logs(trainer))
    assert logs[0] == logs[1]


def test_arguments_of_the_stock_trainer_are_refused(tmp_path):
    with pytest.raises(UserError, match="`args` .* DistillationTrainingArguments, found TrainingArguments"):
        DistillationTrainer(model=bert(1), args=TrainingArguments(str(tmp_path), use_cpu=True))


def test_missing_teacher_is_refused(build_trainer):
    for loss_weights in ({"kl_weight": 1.0}, {"kl_weight": 0.0, "cosine_weight": 1.0}):
        with pytest.raises(UserError, match="`teacher_model`, .* `teacher_logits`"):
            build_trainer(**loss_weights).train()


def test_teacher_logits_of_another_shape_are_refused(build_trainer):
    for num_labels, shape in ((1, (17,)), (3, (17, 1)), (3, (17, 2))):
        train = random_examples(17, num_labels=num_labels).add_column("teacher_logits", torch.zeros(shape).tolist())
        trainer = build_trainer(bert(1, num_labels), train=train, per_device_train_batch_size=17)
        with pytest.raises(UserError, match=rf"\({str(shape)[1:-1]}\), .* \(17, {num_labels}\)"):
            trainer.train()


@pytest.mark.parametrize("row", [[0.0, math.nan, 2.0], [0.0, -math.inf, 2.0], [0.0, None, 2.0], None], ids=str)
def test_teacher_logits_that_are_not_finite_are_refused_before_the_training(build_trainer, row):
    train = random_examples(17).add_column("teacher_logits", [[0.0, 1.0, 2.0]] * 16 + [row])
    with pytest.raises(UserError, match="^1 numbers of the `teacher_logits` column"):
        build_trainer(train=train)
    build_trainer(train=train, **CE_ONLY)
    build_trainer(train=train.select(range(16)))


def test_missing_labels_are_refused_when_they_count(build_trainer):
    trainer = build_trainer(teacher=bert(3), train=random_examples(17).remove_columns("labels"))
    with pytest.raises(UserError, match="--ce_weight .* `labels`"):
        trainer.train()


def test_cosine_of_a_single_output_is_refused(build_trainer):
    trainer = build_trainer(bert(1, 1), teacher=bert(3, 1), cosine_weight=1.0)
    with pytest.raises(UserError, match="--cosine_weight"):
        trainer.train()


# ---- kinds of data and of models ----


def test_unlabelled_examples_are_enough_without_the_hard_label_loss(build_trainer):
    trained = {}
    for columns in ([], ["labels"]):
        train = random_examples(17).remove_columns(columns)
        trainer = build_trainer(teacher=bert(3), train=train, ce_weight=0.0, kl_weight=1.0)
        trainer.train()
        trained[bool(columns)] = trainer
        assert ("loss_ce" in step_logs(trainer)[0]) is (not columns)
        assert all(log["loss"] == pytest.approx(log["loss_kl"]) for log in step_logs(trainer))
    # Labels that do not count change nothing.
    assert_same_weights(weights(trained[True].model), weights(trained[False].model), tolerance=0)


def with_labels(examples, labels):
    return examples.remove_columns("labels").add_column("labels", labels)


def other_problem(problem_type):
    """Examples with labels of a problem type that is not single-label, and its number of outputs."""
    examples = random_examples(24)
    if problem_type == MULTI_LABEL:
        targets = [[float(label == index) for index in range(3)] for label in examples["labels"]]
        return with_labels(examples, targets), 3
    return with_labels(examples, [float(label) for label in examples["labels"]]), 1


@pytest.mark.parametrize("problem_type", [MULTI_LABEL, REGRESSION])
def test_multi_label_and_regression_students_learn_from_labels_and_teacher(build_trainer, problem_type):
    examples, num_labels = other_problem(problem_type)
    trainer = build_trainer(
        bert(1, num_labels),
        teacher=bert(3, num_labels),
        train=examples,
        max_steps=15,
        per_device_train_batch_size=24,
        learning_rate=3e-3,
        ce_weight=0.7,
        kl_weight=0.3,
    )
    # The config does not name the problem type: the number of outputs and the type of the labels give it.
    assert trainer.model.config.problem_type is None
    student_logits, teacher_logits = (logits_one_by_one(bert(n, num_labels), examples) for n in (1, 3))
    before = task_loss(student_logits, torch.tensor(examples["labels"]), problem_type).mean().item()
    kl_before = kl_divergence_loss(student_logits, teacher_logits, 2.0, problem_type).mean().item()
    assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(before, rel=1e-5)
    trainer.train()
    logs = step_logs(trainer)
    assert (logs[0]["loss_ce"], logs[0]["loss_kl"]) == pytest.approx((before, kl_before), rel=1e-5)
    assert logs[-1]["loss"] < 0.7 * logs[0]["loss"]
    assert trainer.evaluate(examples)["eval_loss"] < 0.8 * before


@pytest.mark.parametrize(("asked_for", "num_labels", "is_used"), [(None, 1, False), (True, 1, True), (None, 3, True)])
def test_a_regression_is_not_in_bfloat16_by_default(monkeypatch, build_trainer, asked_for, num_labels, is_used):
    """Around 2000, numbers in bfloat16 are 8 apart."""
    monkeypatch.setattr("layer_distillation.arguments.bf16_in_hardware", lambda use_cpu: True)
    student = bert(1, num_labels)
    with torch.no_grad():
        student.classifier.bias += 2005
    trainer = build_trainer(student, bf16=asked_for, **CE_ONLY)
    examples = random_examples(17).remove_columns("labels")
    exact = logits_one_by_one(student, examples).numpy()
    rounding = np.abs(trainer.predict(examples).predictions - exact).max()
    assert trainer.args.bf16 is is_used and (trainer.accelerator.mixed_precision == "bf16") is is_used
    assert rounding > 1 if is_used else rounding < 1e-3


@pytest.mark.parametrize("order", [(1, 3, 1), (3, 1, 3)])
def test_classifiers_and_regressions_train_in_one_process(monkeypatch, build_trainer, order):
    monkeypatch.setattr("layer_distillation.arguments.bf16_in_hardware", lambda use_cpu: True)
    trainers = [build_trainer(bert(1, num_labels), bf16=None, max_steps=1, **CE_ONLY) for num_labels in order]
    for trainer, num_labels in zip(trainers, order, strict=True):
        if num_labels == 1:
            trainer.train_dataset = with_labels(trainer.train_dataset, [0.5] * len(trainer.train_dataset))
        trainer.train()
        assert trainer.accelerator.mixed_precision == ("no" if num_labels == 1 else "bf16")


@pytest.mark.parametrize("architecture", ["deberta", "xmod"])
def test_a_model_that_cannot_compute_in_bfloat16_trains_by_default(monkeypatch, build_trainer, architecture):
    monkeypatch.setattr("layer_distillation.arguments.bf16_in_hardware", lambda use_cpu: True)
    student = tiny_classifier(architecture, "")
    examples = Dataset.from_dict(
        {"input_ids": [[5, 6, 2], [7, 8, 2]], "attention_mask": [[1] * 3] * 2, "labels": [0, 1]}
    )
    trainer = build_trainer(student, train=examples, bf16=None, max_steps=1, **CE_ONLY)
    trainer.train()
    assert trainer.args.bf16 is False and len(step_logs(trainer)) == 1


def test_problem_type_of_the_config_wins_over_the_inferred_one(build_trainer):
    examples = with_labels(random_examples(8), [[0.0, 1.0, 0.5]] * 8)
    student = bert(1)
    student.config.problem_type = REGRESSION
    trainer = build_trainer(student, train=examples, max_steps=1, **CE_ONLY)
    expected = (logits_one_by_one(bert(1), examples) - torch.tensor([0.0, 1.0, 0.5])).square().mean().item()
    assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    trainer.train()
    assert step_logs(trainer)[0]["loss_ce"] == pytest.approx(expected, rel=1e-5)


def pad_inputs_alone(rows):
    """`pad` takes lists of whole numbers for labels of tokens."""
    inputs = pad([{name: row[name] for name in row if name != "labels"} for row in rows])
    return inputs | {"labels": torch.tensor([row["labels"] for row in rows])}


@pytest.mark.parametrize("problem_type", [MULTI_LABEL, REGRESSION])
def test_labels_that_are_whole_numbers_count_as_the_same_decimals(build_trainer, problem_type):
    targets = torch.randint(0, 2, (8, NUM_LABELS), generator=torch.Generator().manual_seed(0))
    examples, student = with_labels(random_examples(8), targets.tolist()), bert(1)
    student.config.problem_type = problem_type
    logits = logits_one_by_one(bert(1), examples)
    loss = {
        MULTI_LABEL: torch.nn.functional.binary_cross_entropy_with_logits,
        REGRESSION: torch.nn.functional.mse_loss,
    }[problem_type]
    expected = loss(logits, targets.float()).item()
    trainer = build_trainer(student, train=examples, max_steps=1, per_device_train_batch_size=8, **CE_ONLY)
    trainer.data_collator = pad_inputs_alone
    assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert first_step(trainer)["loss_ce"] == pytest.approx(expected, rel=1e-5)


def test_unlabelled_distillation_from_a_multi_label_teacher_compares_its_labels_one_by_one(build_trainer):
    teacher, examples = bert(3), random_examples(8)
    teacher.config.problem_type = MULTI_LABEL
    unlabelled = examples.remove_columns("labels")
    trainer = build_trainer(teacher=teacher, train=unlabelled, max_steps=1, ce_weight=0.0, kl_weight=1.0)
    trainer.train()
    logits = [logits_one_by_one(model, examples) for model in (bert(1), bert(3))]
    expected = kl_divergence_loss(*logits, 2.0, MULTI_LABEL).mean().item()
    assert step_logs(trainer)[0]["loss_kl"] == pytest.approx(expected, rel=1e-5)


def test_student_with_lora_adapters_trains_only_them(build_trainer, tmp_path):
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], lora_dropout=0.0)
    student = get_peft_model(bert(1), config)
    before = weights(student)
    trainer = build_trainer(student, teacher=bert(3), num_train_epochs=8, learning_rate=1e-2)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain_loss(bert(1), trainer.eval_dataset), rel=1e-5)
    trainer.train()
    logs = step_logs(trainer)
    assert logs[-1]["loss"] < logs[0]["loss"] and all(log["loss_kl"] > 0 for log in logs)
    changed = {name for name, tensor in weights(student).items() if not torch.equal(tensor, before[name])}
    assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)
    trainer.save_model(tmp_path / "final")
    assert (tmp_path / "final" / "adapter_model.safetensors").is_file()


# ---- losses of a user's own ----

CLASS_WEIGHTS = torch.tensor([1.0, 3.0, 10.0])


def weighted_cross_entropy(logits, labels, **kwargs):
    return torch.nn.functional.cross_entropy(logits, labels, weight=CLASS_WEIGHTS, **kwargs)


class AddsATerm(DistillationTrainer):
    """The term is a mean over the micro-batch, as in the recipes for `Trainer`."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = loss + 0.5 * (outputs.logits.square().mean(-1) * (1 + inputs["labels"])).mean()
        return (loss, outputs) if return_outputs else loss


def first_step(trainer):
    trainer.train()
    return step_logs(trainer)[0]


def with_user_loss(tmp_path, accumulation, trainer_class=DistillationTrainer, **kwargs):
    settings = {"max_steps": 1, "ce_weight": 0.5, "kl_weight": 0.5, "max_grad_norm": 1e9}
    return trainer_class(
        model=bert(1),
        teacher_model=bert(3),
        args=arguments(
            tmp_path,
            **settings,
            per_device_train_batch_size=16 // accumulation,
            gradient_accumulation_steps=accumulation,
        ),
        train_dataset=random_examples(16),
        data_collator=pad,
        **kwargs,
    )


def test_a_term_that_a_subclass_adds_is_logged_and_counts_once_however_the_step_is_split(tmp_path):
    examples = random_examples(16)
    student, teacher, labels = (
        logits_one_by_one(bert(1), examples),
        logits_one_by_one(bert(3), examples),
        examples["labels"],
    )
    expected = 0.5 * torch.nn.functional.cross_entropy(student, torch.tensor(labels))
    expected += 0.5 * kl_divergence_loss(student, teacher, 2.0).mean()
    expected += 0.5 * (student.square().mean(-1) * (1 + torch.tensor(labels))).mean()
    logs = [first_step(with_user_loss(tmp_path, accumulation, AddsATerm)) for accumulation in (1, 4)]
    assert logs[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)


def test_compute_loss_func_replaces_the_loss_on_the_labels_beside_the_teachers(tmp_path):
    examples = random_examples(16)
    student, teacher = logits_one_by_one(bert(1), examples), logits_one_by_one(bert(3), examples)
    sum_of_losses = weighted_cross_entropy(student, torch.tensor(examples["labels"]), reduction="none").sum().item()
    kl = kl_divergence_loss(student, teacher, 2.0).mean().item()

    def per_item(outputs, labels, num_items_in_batch):
        return weighted_cross_entropy(outputs.logits, labels, reduction="none").sum() / num_items_in_batch

    def mean(outputs, labels, num_items_in_batch):  # leaves the number out, as many do
        return weighted_cross_entropy(outputs.logits, labels, reduction="none").mean()

    for function in (per_item, mean):
        for accumulation in (1, 4):
            log = first_step(with_user_loss(tmp_path, accumulation, compute_loss_func=function))
            assert log["loss_ce"] == pytest.approx(sum_of_losses / 16, rel=1e-5)
            assert log["loss"] == pytest.approx(0.5 * sum_of_losses / 16 + 0.5 * kl, rel=1e-5)


# ---- labels of other kinds ----


def test_class_probabilities_as_labels_are_not_labels_of_tokens(build_trainer):
    probabilities = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    examples = with_labels(random_examples(8), probabilities.tolist())
    logits, teacher_logits = (logits_one_by_one(bert(n), examples) for n in (1, 3))
    student = bert(1)
    student.config.problem_type = SINGLE_LABEL
    trainer = build_trainer(student, teacher=bert(3), train=examples, max_steps=1)
    ce = torch.nn.functional.cross_entropy(logits, probabilities).item()
    assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(ce, rel=1e-5)
    kl = kl_divergence_loss(logits, teacher_logits, 2.0).mean().item()
    log = first_step(trainer)
    assert (log["loss_ce"], log["loss_kl"]) == pytest.approx((ce, kl), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 8])
def test_examples_without_a_label_count_for_the_teacher_alone(build_trainer, accumulation):
    examples = random_examples(8)
    examples = with_labels(examples, [label if i % 2 else -100 for i, label in enumerate(examples["labels"])])
    logits, teacher_logits = (logits_one_by_one(bert(n), examples) for n in (1, 3))
    trainer = build_trainer(
        teacher=bert(3),
        train=examples,
        max_steps=1,
        per_device_train_batch_size=8 // accumulation,  # with 8, every second batch has no label
        gradient_accumulation_steps=accumulation,
    )
    log = first_step(trainer)
    ce = torch.nn.functional.cross_entropy(logits[1::2], torch.tensor(examples["labels"][1::2])).item()
    kl = kl_divergence_loss(logits, teacher_logits, 2.0).mean().item()
    assert (log["loss_ce"], log["loss_kl"]) == pytest.approx((ce, kl), rel=1e-5)
    assert math.isfinite(log["grad_norm"])


@pytest.mark.parametrize("accumulation", [1, 4])
def test_examples_all_of_whose_labels_are_unknown_count_in_no_mean_of_the_labels(build_trainer, accumulation):
    """Of eight examples the first two and the last know no label, and the third knows one of three."""
    labels = torch.tensor([[0.0, 1.0, 0.5]] * 8)
    labels[[0, 1, 7]], labels[2, 1:] = math.nan, math.nan
    examples = with_labels(random_examples(8), labels.tolist())
    logits, teacher_logits = (logits_one_by_one(bert(n), examples) for n in (1, 3))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    expected = (losses[2, 0] + losses[3:7].mean(-1).sum()).item() / 5
    trainer = build_trainer(
        teacher=bert(3),
        train=examples,
        max_steps=1,
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        per_device_eval_batch_size=2,  # the first of four batches knows nothing
    )
    assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    log = first_step(trainer)
    kl = kl_divergence_loss(logits, teacher_logits, 2.0, MULTI_LABEL).mean().item()
    assert (log["loss_ce"], log["loss_kl"]) == pytest.approx((expected, kl), rel=1e-5)


def test_evaluation_leaves_out_a_batch_without_a_label_and_shows_a_loss_that_is_no_number(build_trainer):
    examples = random_examples(8)
    examples = with_labels(examples, [-100] * 4 + examples["labels"][4:])
    trainer = build_trainer()
    expected = plain_loss(bert(1), examples.select(range(4, 8)))
    assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    trainer.model.classifier.weight.data.fill_(math.nan)
    assert math.isnan(trainer.evaluate(examples)["eval_loss"])


def test_float_labels_of_a_model_that_decides_by_itself_need_a_problem_type_beside_a_teacher(build_trainer):
    examples = with_labels(random_examples(8), [[0.0, 0.25, 0.75]] * 8)
    student, teacher = (TINY_CLASSIFIERS["deberta-v2"](n, 3, **NO_DROPOUT, pooler_dropout=0.0) for n in (1, 3))
    logits = [logits_one_by_one(model, examples) for model in (student, teacher)]
    trainer = build_trainer(student, teacher, examples, max_steps=1)
    with pytest.raises(UserError, match="`problem_type`"):
        trainer.train()
    student.config.problem_type = SINGLE_LABEL
    trainer.train()
    kl = kl_divergence_loss(*logits, 2.0).mean().item()
    assert step_logs(trainer)[0]["loss_kl"] == pytest.approx(kl, rel=1e-4)


def decoder(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, initializer_range=0.2, **sizes)).eval()


def test_a_batch_in_which_no_token_has_a_label_changes_neither_loss_nor_weights(build_trainer):
    examples = random_examples(8).map(
        lambda row, index: {"labels": row["input_ids"] if index < 4 else [-100] * len(row["input_ids"])},
        with_indices=True,
    )
    labelled = pad(list(examples.select(range(4)).remove_columns("token_type_ids")))
    with torch.no_grad():
        expected = decoder(0)(**labelled).loss.item()
    # In their order, so that the second batch of the step has no label.
    sizes = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = build_trainer(decoder(0), None, examples, kl_weight=0, train_sampling_strategy="sequential", **sizes)
    trainer.train()
    assert step_logs(trainer)[0]["loss_ce"] == pytest.approx(expected, rel=1e-5)
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())


def test_a_model_of_the_next_token_is_compared_with_its_teacher_where_the_next_token_has_a_label(build_trainer):
    examples = random_examples(8).map(lambda row: {"labels": [-100] * 2 + row["input_ids"][2:]})
    batch = pad(list(examples.remove_columns("token_type_ids")))
    with torch.no_grad():
        student, teacher = (decoder(seed)(**batch) for seed in (0, 1))
    next_tokens = batch["labels"][:, 1:]
    counted = next_tokens != -100
    kl = kl_divergence_loss(student.logits[:, :-1][counted], teacher.logits[:, :-1][counted], 2.0).mean().item()
    smoothed = torch.nn.functional.cross_entropy(
        student.logits[:, :-1].flatten(0, 1), next_tokens.flatten(), label_smoothing=0.2
    )
    for accumulation in (1, 8):
        trainer = build_trainer(
            decoder(0),
            decoder(1),
            examples,
            max_steps=1,
            label_smoothing_factor=0.2,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            per_device_eval_batch_size=8,
        )
        assert trainer.evaluate(examples)["eval_loss"] == pytest.approx(student.loss.item(), rel=1e-5)
        log = first_step(trainer)
        assert (log["loss_ce"], log["loss_kl"]) == pytest.approx((smoothed.item(), kl), rel=1e-5)


# ---- students and teachers of other kinds ----


class OnlyLogits(torch.nn.Module):
    """A module of a user's, with no config and no loss."""

    def __init__(self):
        super().__init__()
        self.model = bert(1)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.model(input_ids, attention_mask).logits}


class PassesOn(torch.nn.Module):
    """Hands the columns that it does not name on."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, **kwargs):
        return self.model(input_ids, **kwargs).logits


def peft_model(num_layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
        return get_peft_model(bert(num_layers), config).eval()


def tuples(num_layers):
    return bert(num_layers, return_dict=False)


def int8(num_layers):
    with warnings.catch_warnings(action="ignore"):
        return torch.ao.quantization.quantize_dynamic(bert(num_layers), {torch.nn.Linear}, dtype=torch.qint8)


TEACHERS = {
    "PEFT": peft_model,
    "tuples": tuples,
    "int8": int8,
    "half precision": lambda num_layers: bert(num_layers).half(),
    "a module": lambda num_layers: PassesOn(bert(num_layers)),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers_of_every_kind_give_their_own_logits(build_trainer, kind):
    teacher, examples = TEACHERS[kind](3), random_examples(8)
    with torch.no_grad():
        batch = pad([{name: row[name] for name in row if name != "labels"} for row in examples])
        outputs = teacher(**batch)
    teacher_logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    trainer = build_trainer(teacher=teacher, train=examples, max_steps=1, remove_unused_columns=False)
    expected = kl_divergence_loss(logits_one_by_one(bert(1), examples), teacher_logits, 2.0).mean().item()
    assert first_step(trainer)["loss_kl"] == pytest.approx(expected, rel=2e-3 if kind == "half precision" else 1e-4)


def test_a_module_that_returns_only_logits_learns_from_labels_and_teacher(build_trainer):
    examples = random_examples(8).remove_columns("token_type_ids")
    student = OnlyLogits()
    with torch.no_grad():
        batch = pad(list(examples))
        labels = batch.pop("labels")
        logits = student(**batch)["logits"]
    trainer = build_trainer(student, teacher=bert(3), train=examples, max_steps=1)
    trainer.eval_dataset = examples
    ce = torch.nn.functional.cross_entropy(logits, labels).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(ce, rel=1e-5)
    log = first_step(trainer)
    with torch.no_grad():
        kl = kl_divergence_loss(logits, bert(3)(**batch).logits, 2.0).mean().item()
    assert (log["loss_ce"], log["loss_kl"]) == pytest.approx((ce, kl), rel=1e-5)


class BareLogits(torch.nn.Module):
    """Returns a tensor."""

    def __init__(self):
        super().__init__()
        self.model = bert(1)

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask).logits


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_bare_logits_without_labels_keep_a_row_an_example_whatever_the_batches(build_trainer, batch_size):
    examples, student = random_examples(5).select_columns(["input_ids", "attention_mask"]), BareLogits().eval()
    with torch.no_grad():
        expected = student(**pad(list(examples))).numpy()
    trainer = build_trainer(student, teacher=bert(3), per_device_eval_batch_size=batch_size)
    assert trainer.predict(examples).predictions == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss_weights", [CE_ONLY, {}], ids=["labels alone", "with a teacher"])
def test_a_tensor_without_a_row_an_example_may_come_first_in_a_batch(build_trainer, loss_weights):
    def with_positions(examples):
        batch = pad(examples)
        return {"position_ids": torch.arange(batch["input_ids"].shape[1])[None], **batch}

    runs = []
    for collator in (pad, with_positions):
        trainer = build_trainer(teacher=bert(3), gradient_accumulation_steps=2, **loss_weights)
        trainer.data_collator = collator
        trainer.train()
        metrics = {name: value for name, value in trainer.evaluate().items() if name == "eval_loss"}
        runs.append({"steps": step_logs(trainer), "metrics": metrics, "weights": weights(trainer.model)})
    assert_same_steps(*runs)
    assert runs[0]["metrics"] == pytest.approx(runs[1]["metrics"])


def test_labels_in_a_list_do_not_count_the_examples(build_trainer):
    boxes = [{"class_labels": torch.zeros(number, dtype=torch.long)} for number in (0, 2, 1, 3)]
    loss = build_trainer()._label_loss
    assert loss.num_examples({"pixel_values": torch.zeros(4, 3, 8, 8), "labels": boxes}) == 4
    assert loss.num_examples({"position_ids": torch.zeros(1, 5), "input_ids": torch.zeros(2, 5), "labels": boxes}) == 2


def test_a_student_in_half_precision_is_trained_in_float32(build_trainer):
    trained = {}
    for name, student in (("half", bert(1).bfloat16()), ("float32", bert(1).bfloat16().float())):
        trainer = build_trainer(student, teacher=bert(3), num_train_epochs=1)
        trainer.train()
        trained[name] = weights(trainer.model)
    assert_same_weights(trained["half"], trained["float32"], tolerance=0)
    from_init = DistillationTrainer(model_init=lambda: bert(1).half(), args=trainer.args)
    assert from_init.model.dtype == torch.float32


def test_texts_that_the_collator_tokenizes_are_shuffled_where_no_lengths_are_known(build_trainer):
    rows = [{"text": " ".join(map(str, row["input_ids"])), "label": row["labels"]} for row in random_examples(17)]
    seen = []

    def collate(examples):
        seen.extend(example["text"] for example in examples)
        ids = [[int(word) for word in example["text"].split()] for example in examples]
        return pad(
            [{"input_ids": x, "attention_mask": [1] * len(x), "labels": e["label"]} for x, e in zip(ids, examples)]
        )

    for train in (Dataset.from_list(rows), rows):
        seen.clear()
        trainer = build_trainer(teacher=bert(3), train=train, num_train_epochs=1, remove_unused_columns=False)
        trainer.data_collator = collate
        assert trainer.args.train_sampling_strategy == "group_by_length"
        trainer.train()
        texts = [row["text"] for row in rows]
        assert sorted(seen) == sorted(texts) and seen != texts


# ---- order of the examples ----


LENGTHS = torch.randint(3, 60, (203,), generator=torch.Generator().manual_seed(0)).tolist()


def order(seed=0, epoch=0, lengths=None, batch_size=8):
    return list(EpochShuffleSampler(len(LENGTHS), seed, lambda: epoch, lengths, batch_size))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["plain", "by length"])
def test_sampler_yields_a_permutation_that_depends_on_seed_and_epoch_alone(lengths):
    orders = {}
    for seed in (0, 1, 42):
        for epoch in (0, 1, 2):
            torch.rand(3)  # the global random state plays no part
            orders[seed, epoch] = order(seed, epoch, lengths)
            assert sorted(orders[seed, epoch]) == list(range(len(LENGTHS)))
            torch.rand(5)
            assert order(seed, epoch, lengths) == orders[seed, epoch]
    # Without lengths, epoch 1 of seed 0 has the order of epoch 0 of seed 1, as with the stock trainer.
    num_orders = len({tuple(indices) for indices in orders.values()})
    assert num_orders == len(orders) - (2 if lengths is None else 0)


def test_batches_grouped_by_length_have_less_padding_than_random_ones():
    def num_padding(indices):
        batches = [[LENGTHS[i] for i in indices[start : start + 8]] for start in range(0, len(indices), 8)]
        return sum(len(batch) * max(batch) - sum(batch) for batch in batches)

    assert num_padding(order(lengths=LENGTHS)) < 0.3 * num_padding(order())


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_training_visits_every_example_once_an_epoch_in_another_order_each(build_trainer, strategy):
    seen = []
    student = bert(1)
    student.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["input_ids"][:, 0].tolist()), with_kwargs=True
    )
    numbered = [[index, *ids[1:]] for index, ids in enumerate(random_examples(17)["input_ids"])]
    examples = random_examples(17).remove_columns("input_ids").add_column("input_ids", numbered)
    build_trainer(student, train=examples, train_sampling_strategy=strategy, num_train_epochs=3, **CE_ONLY).train()
    epochs = [seen[start : start + 17] for start in range(0, len(seen), 17)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(17))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_resuming_in_the_middle_of_an_epoch_gives_the_same_bits(build_trainer, tmp_path):
    settings = {
        "teacher": bert(3),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": None,
    }
    uninterrupted = build_trainer(bert(1, dropout=True), **settings)
    uninterrupted.train()
    assert 4 % (uninterrupted.state.max_steps / 3) != 0
    resumed = build_trainer(bert(1, dropout=True), output_dir=tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_weights(weights(resumed.model), weights(uninterrupted.model), tolerance=0)
    names = ("step", "loss", "loss_ce", "loss_kl")
    after = [[log[name] for name in names] for log in step_logs(uninterrupted) if log["step"] > 4]
    assert [[log[name] for name in names] for log in step_logs(resumed) if log["step"] > 4] == after


def test_lengths_are_found_in_a_table_and_in_a_list_of_examples(build_trainer):
    trainer = build_trainer()
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    assert trainer._get_train_sampler(trainer.train_dataset).lengths == lengths
    assert trainer._get_train_sampler(list(trainer.train_dataset)).lengths == lengths
    trainer.args.length_column_name = "num_words"
    with_lengths = trainer.train_dataset.add_column("num_words", list(range(17)))
    assert trainer._get_train_sampler(with_lengths).lengths == list(range(17))


@pytest.mark.parametrize("strategy", ["group_by_length", "random", "sequential"])
@pytest.mark.parametrize("empty", [random_examples(1).select(range(0)), []], ids=["table", "list"])
def test_training_data_without_examples_are_refused(build_trainer, empty, strategy):
    trainer = build_trainer(teacher=bert(2), train=empty, train_sampling_strategy=strategy)
    with pytest.raises(UserError, match="training data have no examples"):
        trainer.train()


@pytest.mark.parametrize("length", [{}, {"max_steps": 1}], ids=["epochs", "steps"])
def test_too_few_examples_for_a_batch_are_refused_where_batches_that_are_not_full_are_dropped(build_trainer, length):
    # Parts of an optimizer step that are missing at the end of an epoch are no reason.
    more = {"dataloader_drop_last": True, "gradient_accumulation_steps": 4, **length}
    with pytest.raises(UserError, match="7 examples make no full batch of 8: .*--dataloader_drop_last"):
        build_trainer(train=random_examples(7), teacher=bert(2), **more).train()
    assert build_trainer(train=random_examples(8), teacher=bert(2), **more).train().global_step > 0


def test_training_data_without_examples_are_refused_where_stored_hidden_states_are_looked_for(tmp_path):
    args = arguments(tmp_path, **CE_ONLY, hidden_weight=1.0)
    trainer = DistillationTrainer(bert(1), args, teacher_layers=[2], train_dataset=[], data_collator=pad)
    with pytest.raises(UserError, match="training data have no examples"):
        trainer.train()


# ---- precision ----


def test_bf16_is_on_where_the_hardware_has_it_unless_told_otherwise(tmp_path):
    assert DistillationTrainingArguments(str(tmp_path)).bf16 is bf16_in_hardware(not torch.accelerator.is_available())
    assert DistillationTrainingArguments(str(tmp_path), use_cpu=True).bf16 is bf16_in_hardware(use_cpu=True)
    assert DistillationTrainingArguments(str(tmp_path), bf16=False).bf16 is False
    assert DistillationTrainingArguments(str(tmp_path), bf16=True).bf16 is True


# ---- several processes ----


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    subprocess.run(
        [sys.executable, *command, train_worker.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_give_the_logs_predictions_and_weights_of_one(one_process, two_processes, scenario):
    # `Trainer` takes the mean over the batches of evaluation, in which the numbers of tokens differ.
    compare = assert_same_steps if scenario == "27 of tokens" else assert_same_training
    for split in SPLITS[2]:
        compare(two_processes[0][(scenario, *split)], one_process[(scenario, 16, 1)])


@pytest.mark.distributed
def test_two_processes_take_the_steps_of_one_when_the_last_batch_is_dropped(one_process, two_processes):
    scenario = "27 without the last batch"
    assert len(one_process[scenario, 16, 1]["steps"]) == 2
    assert len(one_process[scenario, 16, 1]["predictions"]) == 13  # all examples: nothing is dropped in evaluation
    assert_same_training(two_processes[0][scenario, 8, 1], one_process[scenario, 16, 1])


@pytest.mark.distributed
def test_both_processes_hold_the_same_weights(two_processes):
    first, second = two_processes
    for key, result in first.items():
        if isinstance(key, tuple):
            assert_same_weights(second[key]["weights"], result["weights"], tolerance=0)


@pytest.mark.distributed
def test_two_processes_cache_the_teacher_logits_of_one(two_processes):
    expected = logits_one_by_one(bert(3), random_examples(21))
    for results in two_processes:
        for name in ("cached logits", "half-cached logits"):
            torch.testing.assert_close(torch.tensor(results[name][:]), expected, rtol=1e-5, atol=1e-5)
