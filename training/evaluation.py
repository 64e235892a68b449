"""Scores a classifier: metrics of each split, predictions on disk, parameters, size and latency."""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from layer_distillation.atomic_files import write_json
from layer_distillation.errors import UserError
from layer_distillation.label_loss import mean_task_loss
from layer_distillation.model_outputs import compute_logits, forward_columns, longest_first
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from layer_distillation.student_config import encoder_config
from text_data.answers import answers_of, hard_labels, label_array
from text_data.labels import LabelMap
from text_data.thresholds import THRESHOLDS_FILE, choose_thresholds
from training.inputs import Inputs

# Key of `training_loss` among the results of a run.
TRAINING_LOSS = "train_eval_loss"


def evaluate_model(
    model: PreTrainedModel, inputs: Inputs, splits: Sequence[str], prefix: str, args: TrainingArguments
) -> dict[str, float]:
    """Returns what `evaluate_splits` returns, for a model that no trainer holds."""

    def logits_of(split: str) -> np.ndarray:
        tokenized = inputs.tokenized[split]
        return compute_logits(model, tokenized, inputs.collator, args.per_device_eval_batch_size, args.bf16)

    return score_splits(logits_of, inputs, splits, prefix)


def score_splits(
    logits_of: Callable[[str], np.ndarray], inputs: Inputs, splits: Sequence[str], prefix: str
) -> dict[str, float]:
    """Returns what `evaluate_splits` returns, for anything that gives logits `(examples, labels)` for a split."""
    metrics = {}
    for split, suffix in _suffixes(splits, inputs).items():
        scores = score_logits(logits_of(split), label_array(inputs.tokenized[split]), inputs)
        metrics.update({f"{prefix}_{name}{suffix}": value for name, value in scores.items()})
    return metrics


def score_logits(logits: np.ndarray, label_ids: np.ndarray, inputs: Inputs) -> dict[str, float]:
    """Returns the mean loss on the labels, and the metrics of the task."""
    loss = mean_task_loss(logits, label_ids, inputs.data.labels.problem_type)
    return {"loss": loss, **inputs.compute_metrics(EvalPrediction(logits, label_ids))}


def training_loss(trainer: Trainer, inputs: Inputs) -> dict[str, float]:
    """Returns the loss on the labels of all training examples in evaluation mode, empty if they have none.

    The loss that is logged during the training is a mean over changing weights, with dropout, and for each method with
    other terms. This loss can be compared between methods.
    """
    tokenized = inputs.tokenized["train"]
    if "labels" not in tokenized.column_names:
        return {}
    return {
        TRAINING_LOSS: trainer.predict(by_length(tokenized), metric_key_prefix="train_eval").metrics[TRAINING_LOSS]
    }


def check_has_converged(results: Mapping[str, float], model: str, advice: str) -> None:
    """Checks that the loss of a trained model is a number; it is NaN after steps that were too large.

    Args:
        results: with the loss on one of the splits at least, or nothing is checked.
        model: what it is, for the message.
        advice: what to do.

    Raises:
        UserError: it is NaN or infinite.
    """
    losses = [results[name] for name in (TRAINING_LOSS, "eval_loss", "predict_loss") if name in results]
    if losses and not math.isfinite(losses[0]):
        raise UserError(
            f"The {model} has learned nothing: its loss is {losses[0]}, because its weights or its answers are no "
            f"numbers. {advice}"
        )


def _predict(trainer: Trainer, tokenized: Dataset, prefix: str) -> PredictionOutput:
    """Returns what `trainer.predict` does, in the order of the data set; the model reads it as `by_length` has it."""
    order = longest_first(tokenized)
    output = trainer.predict(tokenized.select(order, keep_in_memory=True), metric_key_prefix=prefix)
    back = np.argsort(order)
    label_ids = None if output.label_ids is None else output.label_ids[back]
    return PredictionOutput(np.asarray(output.predictions)[back], label_ids, output.metrics)


def by_length(tokenized: Dataset) -> Dataset:
    """Returns the examples in the order of `longest_first`: texts of similar length need little padding."""
    return tokenized.select(longest_first(tokenized), keep_in_memory=True)


def true_answers(tokenized: Dataset, labels: LabelMap) -> np.ndarray:
    """Returns the labels of a split as predictions are compared with them (see `hard_labels`)."""
    return hard_labels(label_array(tokenized), labels.problem_type)


def evaluate_splits(trainer: Trainer, inputs: Inputs, splits: Sequence[str], prefix: str) -> dict[str, float]:
    """Returns the metrics of the splits that have labels, named `{prefix}_{metric}`.

    The metrics of all these splits but the first get a suffix: `_mm` for MNLI's mismatched set, as in `run_glue.py`,
    otherwise what follows "validation" or "test" in the split's name.
    """
    metrics = {}
    for split, suffix in _suffixes(splits, inputs).items():
        scores = trainer.evaluate(by_length(inputs.tokenized[split]), metric_key_prefix=prefix)
        metrics.update({f"{name}{suffix}": value for name, value in scores.items()})
    return metrics


def _suffixes(splits: Sequence[str], inputs: Inputs) -> dict[str, str]:
    """The splits that have labels, and what the metrics of each end in, to tell them apart: nothing for the first.

    The first of them is the one that results are reported on (`Inputs.reported_split`).
    """
    labelled = [split for split in splits if "labels" in inputs.tokenized[split].column_names]
    names = {split: split.split("_", maxsplit=1)[-1] for split in labelled[1:]}
    others = {split: "_mm" if name == "mismatched" else f"_{name}" for split, name in names.items()}
    return dict.fromkeys(labelled[:1], "") | others


def predict_splits(trainer: Trainer, inputs: Inputs, splits: Sequence[str], folder: str | Path) -> dict[str, float]:
    """Writes `predictions_{split}.csv` for each split, and returns the metrics of the splits that have labels.

    Columns of a file: `index` (row of the split, from 0), `label` where it is known, `prediction`, and a logit for
    each label. Metrics are named `predict_{metric}`, with suffixes as in `evaluate_splits`.
    """
    metrics, suffixes = {}, _suffixes(splits, inputs)
    for split in splits:
        output = _predict(trainer, inputs.tokenized[split], "predict")
        if trainer.is_world_process_zero():
            file = Path(folder) / f"predictions_{split}.csv"
            write_predictions(file, output.predictions, output.label_ids, inputs.data.labels)
        if split in suffixes:
            metrics.update({f"{name}{suffixes[split]}": value for name, value in output.metrics.items()})
    return metrics


def write_thresholds(trainer: Trainer, inputs: Inputs, folder: str | Path) -> None:
    """Writes `thresholds.json` for a student with several labels, chosen on the first validation split."""
    labels, split = inputs.data.labels, inputs.data.validation_splits[0]
    if labels.problem_type != MULTI_LABEL:
        return
    logits, label_ids, _ = _predict(trainer, inputs.tokenized[split], "thresholds")
    if trainer.is_world_process_zero():
        report = choose_thresholds(logits, label_ids, labels.names, labels.problem_type, inputs.threshold_rule)
        write_json(Path(folder) / THRESHOLDS_FILE, {"split": split, **report})


def write_predictions(file: Path, logits: np.ndarray, label_ids: np.ndarray | None, labels: LabelMap) -> None:
    """Writes a file as `predict_splits` does."""
    logits = logits.reshape(-1, labels.num_labels)
    columns = {"index": range(len(logits))}
    if label_ids is not None:
        columns["label"] = _label_names(label_ids, labels)
    columns["prediction"] = _label_names(answers_of(logits, labels.problem_type), labels)
    columns |= {f"logit_{name}": logits[:, i] for i, name in enumerate(labels.names)}
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _label_names(values: np.ndarray, labels: LabelMap) -> list:
    if labels.problem_type == SINGLE_LABEL:
        return [labels.names[i] for i in hard_labels(values, SINGLE_LABEL)]
    if labels.problem_type == MULTI_LABEL:
        return [_present(row, labels.names) for row in values]
    return np.asarray(values).ravel().tolist()


def _present(shares: np.ndarray, names: Sequence[str]) -> str:
    """Returns the labels that an example has; a question mark follows one that is unknown (NaN)."""
    return ";".join(
        name if share >= 0.5 else f"{name}?" for name, share in zip(names, shares, strict=True) if not share < 0.5
    )


def describe_model(model: PreTrainedModel, latency_ms: float) -> dict[str, float]:
    """Layers, weights, their size when saved (MB of 10^6 bytes) and the given milliseconds an example."""
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {
        "num_layers": encoder_config(model.config).num_hidden_layers,
        "parameters": model.num_parameters(),
        "megabytes": num_bytes / 1e6,
        "latency_ms": latency_ms,
    }


def measure_latency(models: Sequence[tuple[PreTrainedModel, Dataset]], num_examples: int = 50) -> list[float]:
    """Median milliseconds of a forward pass on one example, for each model.

    The models take turns on every example, so that a change in the machine's speed meets all of them alike. The first
    five examples are a warm-up.

    Args:
        models: each on the device to measure, with the tokenized data set that it reads; the first `num_examples`
            are used, unpadded.
    """
    seconds: list[list[float]] = [[] for _ in models]
    for index in range(min(num_examples + 5, *(len(dataset) for _, dataset in models))):
        for (model, dataset), times in zip(models, seconds, strict=True):
            model.eval()
            example = dataset[index]
            columns = forward_columns(model) & example.keys()
            inputs = {name: torch.tensor([example[name]], device=model.device) for name in columns}
            _synchronize(model.device)
            start = time.perf_counter()
            with torch.inference_mode():
                model(**inputs)
            _synchronize(model.device)
            times.append(time.perf_counter() - start)
    return [1000 * median(times[5:] or times) for times in seconds]


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
