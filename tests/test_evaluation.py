"""Tests of `evaluation`: metrics of splits, predictions on disk, size and latency."""

import csv
import os
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import DataCollatorWithPadding, TrainingArguments

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE
from text_data.labels import LabelMap
from text_data.metrics import build_compute_metrics
from training.evaluation import (
    describe_model,
    evaluate_splits,
    measure_latency,
    predict_splits,
    score_logits,
    training_loss,
)

SINGLE = LabelMap(SINGLE_LABEL, ("bad", "good", "so, so"))
MULTI = LabelMap(MULTI_LABEL, ("angry", "sad", "vulgar"))
SCORES = LabelMap(REGRESSION, ("score",))


def split(labels=None, seed=0, size=9):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, size)  # in no order, so that any sorting by length would show
    columns = {"input_ids": [rng.integers(5, VOCAB_SIZE, length).tolist() for length in lengths]}
    columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(columns | ({} if labels is None else {"labels": labels}))


class PadOnly:
    """What `DataCollatorWithPadding` needs of a tokenizer."""

    def pad(self, examples, **kwargs):
        length = max(len(example["input_ids"]) for example in examples)
        batch = {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if name in ("input_ids", "attention_mask"):
                values = [value + [0] * (length - len(value)) for value in values]
            batch[name] = torch.tensor(values)
        return batch


@pytest.fixture
def make_trainer(tmp_path):
    def make(labels):
        model = TINY_CLASSIFIERS["bert"](2, labels.num_labels)
        model.config.problem_type = labels.problem_type
        model.config.id2label, model.config.label2id = labels.id2label, labels.label2id
        args = DistillationTrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            per_device_eval_batch_size=4,
            report_to="none",
            disable_tqdm=True,
        )
        return DistillationTrainer(
            model=model,
            args=args,
            data_collator=DataCollatorWithPadding(PadOnly()),
            compute_metrics=build_compute_metrics(labels, None),
        )

    return make


def inputs(labels, **splits):
    """What evaluation reads of a run's inputs."""
    return SimpleNamespace(tokenized=DatasetDict(splits), data=SimpleNamespace(labels=labels))


def logits_one_by_one(model, dataset):
    with torch.no_grad():
        return np.stack([model(torch.tensor([row["input_ids"]])).logits[0].numpy() for row in dataset])


def read_predictions(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


# ---- Metrics ----


def test_a_model_and_its_trainer_give_the_same_loss_where_labels_are_unknown(make_trainer):
    labels = np.array([[1, 0, 1]] * 9, dtype=np.float32)
    labels[[0, 4]], labels[5, 1:] = np.nan, np.nan
    trainer, tokenized = make_trainer(MULTI), split(labels.tolist())
    logits = logits_one_by_one(trainer.model, tokenized)
    losses = np.logaddexp(0, logits) - np.nan_to_num(labels) * logits
    rows = [row[~np.isnan(targets)] for row, targets in zip(losses, labels)]
    expected = np.mean([row.mean() for row in rows if len(row)])
    assert trainer.evaluate(tokenized)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    data = SimpleNamespace(data=SimpleNamespace(labels=MULTI), compute_metrics=lambda prediction: {})
    assert score_logits(logits, labels, data)["loss"] == pytest.approx(expected, rel=1e-5)


def test_labelled_splits_are_evaluated_and_all_but_the_first_get_a_suffix(make_trainer):
    trainer = make_trainer(SINGLE)
    labels = np.arange(9) % 3
    suffixes = {"validation_matched": "", "validation_mismatched": "_mm", "validation_hard": "_hard"}
    tokenized = DatasetDict({name: split(labels, seed=seed) for seed, name in enumerate(suffixes)})
    tokenized["unlabelled"] = split()
    data = inputs(SINGLE, **tokenized)
    metrics = evaluate_splits(trainer, data, (*suffixes, "unlabelled"), "eval")
    for name, suffix in suffixes.items():
        predictions = logits_one_by_one(trainer.model, tokenized[name]).argmax(axis=1)
        assert metrics[f"eval_accuracy{suffix}"] == (predictions == labels).mean()
    assert all(name.startswith(("eval_", "epoch")) for name in metrics)
    assert {"eval_loss", "eval_loss_mm", "eval_macro_f1", "eval_macro_f1_mm"} <= metrics.keys()
    assert evaluate_splits(trainer, data, ("unlabelled",), "predict") == {}


def test_the_training_loss_is_that_of_all_examples_and_needs_no_predictions(make_trainer):
    trainer, tokenized = make_trainer(SINGLE), split(np.arange(9) % 3)
    expected = trainer.evaluate(tokenized)["eval_loss"]
    for trainer.args.prediction_loss_only in (False, True):
        assert training_loss(trainer, inputs(SINGLE, train=tokenized)) == {"train_eval_loss": pytest.approx(expected)}


# ---- Predictions ----


def test_predictions_are_in_the_order_of_the_data_with_names_and_logits(make_trainer, tmp_path):
    trainer = make_trainer(SINGLE)
    labels = [0, 1, 2, 1, 0, 2, 2, 1, 0]
    tokenized = DatasetDict(test=split(labels))
    metrics = predict_splits(trainer, inputs(SINGLE, **tokenized), ("test",), tmp_path)
    rows = read_predictions(tmp_path / "predictions_test.csv")
    logits = logits_one_by_one(trainer.model, tokenized["test"])
    assert list(rows[0]) == ["index", "label", "prediction", "logit_bad", "logit_good", "logit_so, so"]
    assert [int(row["index"]) for row in rows] == list(range(9))
    assert [row["label"] for row in rows] == [SINGLE.names[i] for i in labels]
    assert [row["prediction"] for row in rows] == [SINGLE.names[i] for i in logits.argmax(axis=1)]
    written = [[float(row[f"logit_{name}"]) for name in SINGLE.names] for row in rows]
    np.testing.assert_allclose(written, logits, atol=1e-5)
    assert metrics["predict_accuracy"] == np.mean([row["label"] == row["prediction"] for row in rows])


def test_multi_label_predictions_are_the_labels_with_positive_logits(make_trainer, tmp_path):
    trainer = make_trainer(MULTI)
    labels = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 0.0]] * 3
    tokenized = DatasetDict(test=split(labels))
    metrics = predict_splits(trainer, inputs(MULTI, **tokenized), ("test",), tmp_path)
    rows = read_predictions(tmp_path / "predictions_test.csv")
    assert [row["label"] for row in rows[:3]] == ["angry;vulgar", "", "angry?;sad"]
    for row, logits in zip(rows, logits_one_by_one(trainer.model, tokenized["test"]), strict=True):
        assert row["prediction"] == ";".join(name for name, logit in zip(MULTI.names, logits) if logit > 0)
    assert "predict_micro_f1" in metrics


def test_regression_predictions_are_numbers(make_trainer, tmp_path):
    trainer = make_trainer(SCORES)
    labels = [0.5, 1.0, 2.5, 5.0, 0.0, 3.25, 1.5, 4.0, 2.0]
    tokenized = DatasetDict(test=split(labels))
    metrics = predict_splits(trainer, inputs(SCORES, **tokenized), ("test",), tmp_path)
    rows = read_predictions(tmp_path / "predictions_test.csv")
    assert [float(row["label"]) for row in rows] == labels
    expected = logits_one_by_one(trainer.model, tokenized["test"])[:, 0]
    np.testing.assert_allclose([float(row["prediction"]) for row in rows], expected, atol=1e-5)
    assert {"predict_pearson", "predict_mse"} <= metrics.keys()


def test_unlabelled_splits_give_predictions_and_no_metrics(make_trainer, tmp_path):
    trainer = make_trainer(SINGLE)
    tokenized = DatasetDict(test_matched=split(seed=1), test_mismatched=split(seed=2, size=1))
    assert predict_splits(trainer, inputs(SINGLE, **tokenized), tuple(tokenized), tmp_path) == {}
    for name in tokenized:
        rows = read_predictions(tmp_path / f"predictions_{name}.csv")
        assert len(rows) == len(tokenized[name])
        assert list(rows[0]) == ["index", "prediction", "logit_bad", "logit_good", "logit_so, so"]


def test_only_the_first_process_writes(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(SINGLE)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    assert "predict_loss" in predict_splits(trainer, inputs(SINGLE, test=split([0] * 9)), ("test",), tmp_path)
    assert not (tmp_path / "predictions_test.csv").exists()


def test_metrics_have_no_suffix_for_the_first_split_with_labels(make_trainer, tmp_path):
    trainer = make_trainer(SINGLE)
    tokenized = DatasetDict(test=split(), test_hard=split([0, 1, 2] * 3), test_new=split([0] * 9, size=9))
    data = inputs(SINGLE, **tokenized)
    predicted = predict_splits(trainer, data, tuple(tokenized), tmp_path)
    assert {name for name in predicted if "accuracy" in name} == {"predict_accuracy", "predict_accuracy_new"}
    evaluated = evaluate_splits(trainer, data, tuple(tokenized), "predict")
    assert {name: evaluated[name] for name in predicted if "accuracy" in name} == {
        name: value for name, value in predicted.items() if "accuracy" in name
    }
    assert read_predictions(tmp_path / "predictions_test.csv")


# ---- Size and latency ----


def test_a_model_is_described_by_its_depth_weights_and_size():
    model = TINY_CLASSIFIERS["distilbert"](3, 2)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    expected = {"num_layers": 3, "parameters": parameters, "megabytes": 4 * parameters / 1e6, "latency_ms": 1.5}
    assert describe_model(model, 1.5) == expected
    assert describe_model(model.half(), 1.5)["megabytes"] == 2 * parameters / 1e6


def test_the_size_is_that_of_the_saved_weights(tmp_path):
    model = TINY_CLASSIFIERS["bert"](6, 2)
    model.save_pretrained(tmp_path)
    in_megabytes = (tmp_path / "model.safetensors").stat().st_size / 1e6
    assert describe_model(model, 0.0)["megabytes"] == pytest.approx(in_megabytes, rel=0.1)  # names make up the rest


def test_latency_is_measured_in_milliseconds_in_eval_mode_on_unpadded_examples():
    dataset = split([0] * 9).remove_columns("length")
    models = [TINY_CLASSIFIERS["bert"](depth, 3).train() for depth in (12, 1)]
    seen = []
    models[0].register_forward_pre_hook(
        lambda model, args, kwargs: seen.append((model.training, kwargs["input_ids"].shape[1], sorted(kwargs))),
        with_kwargs=True,
    )
    deep, shallow = measure_latency([(model, dataset) for model in models])
    assert shallow > 0 and deep > 0
    lengths = [len(ids) for ids in dataset["input_ids"]]
    assert seen == [(False, length, ["attention_mask", "input_ids"]) for length in lengths]


def test_latency_leaves_out_the_warm_up_and_works_on_few_examples(monkeypatch):
    clock = iter([0.0, 9.0] * 5 + [0.0, 0.002] * 4)  # the first five take 9 s each
    monkeypatch.setattr("training.evaluation.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    model = TINY_CLASSIFIERS["bert"](1, 3)
    assert measure_latency([(model, split())]) == [pytest.approx(2.0)]
    clock = iter([0.0, 0.003])
    assert measure_latency([(model, split(size=1))]) == [pytest.approx(3.0)]


def test_latency_looks_at_no_more_examples_than_asked_for():
    calls = []
    model = TINY_CLASSIFIERS["bert"](1, 3)
    model.register_forward_pre_hook(lambda *inputs: calls.append(1))
    measure_latency([(model, split(size=20))], num_examples=3)
    assert len(calls) == 3 + 5


def test_a_plain_trainer_can_be_evaluated_too(tmp_path):
    from transformers import Trainer

    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = Trainer(
        TINY_CLASSIFIERS["bert"](1, 3),
        args,
        data_collator=DataCollatorWithPadding(PadOnly()),
        compute_metrics=build_compute_metrics(SINGLE, None),
    )
    assert "eval_accuracy" in evaluate_splits(trainer, inputs(SINGLE, dev=split([0, 1, 2] * 3)), ("dev",), "eval")
