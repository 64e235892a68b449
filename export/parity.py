"""What an ONNX graph answers, and the data on which its answers are compared with PyTorch's.

splits = {"validation": tokenized["validation"]}
data = CheckData(splits, collator, compute_metrics, SINGLE_LABEL, ("no", "yes"), max_length=128)
logits = compute_onnx_logits("model.onnx", data.validation, data.collator)
scores = data.scores(logits, "validation")
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from export.gate import Gate
from layer_distillation.model_outputs import with_model_inputs
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION
from text_data.answers import label_array

BATCH_SIZE = 8  # the fastest per example on a processor; larger batches outgrow its caches
# All int8 activations of a batch share one scale, so an answer would depend on the other texts of the batch.
INT8_BATCH_SIZE = 1
# Examples whose tokens make the longest text.
SOURCES_OF_LONGEST = 64


def compute_onnx_logits(
    file: str | Path, dataset: Dataset, collator: Callable, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Runs an ONNX classifier over a tokenized data set.

    Args:
        collator: pads a list of examples into a batch of tensors, for example `DataCollatorWithPadding(tokenizer)`.
        batch_size: `INT8_BATCH_SIZE` for an int8 graph.

    Returns:
        float32 `(len(dataset), num_labels)`, in the data set's order.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    given = [name for name in names if name in dataset.column_names]
    batches = DataLoader(dataset.select_columns(given), batch_size=batch_size, collate_fn=collator)

    def run(batch: Mapping[str, torch.Tensor]) -> np.ndarray:
        # Where the tokenizer gives no types of tokens, all tokens have the first type, as in PyTorch.
        types = {"token_type_ids": torch.zeros_like(batch["input_ids"])}
        inputs = types | dict(batch)
        return session.run(["logits"], {name: inputs[name].numpy() for name in names})[0]

    return np.concatenate([run(batch) for batch in batches])


def deciding_metric(problem_type: str) -> str:
    """Returns the score that int8 has to keep: "pearson" for regression, otherwise "accuracy"."""
    return "pearson" if problem_type == REGRESSION else "accuracy"


@dataclass(frozen=True)
class CheckData:
    """The data that an export is checked on.

    Attributes:
        splits: tokenized examples with `labels`, by name. The first split is the validation split, which decides
            whether an export is good.
        collator: as for `compute_onnx_logits`.
        compute_metrics: returns scores by name for an `EvalPrediction`.
        problem_type: one of `layer_distillation.problem_types`.
        names: of the labels, in the order of their ids.
        max_length: the most tokens that a text may have.
        thresholds: from which probability an example has a label, by its name; for several labels only.
    """

    splits: Mapping[str, Dataset]
    collator: Callable
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    problem_type: str
    names: tuple[str, ...]
    max_length: int
    thresholds: Mapping[str, float] | None = None

    @property
    def validation_split(self) -> str:
        return next(iter(self.splits))

    @property
    def validation(self) -> Dataset:
        return self.splits[self.validation_split]

    @property
    def longest_text(self) -> Dataset:
        """One text of as many tokens as a text may have: those of validation examples, one after the other."""
        examples = with_model_inputs(self.validation.select(range(min(SOURCES_OF_LONGEST, len(self.validation)))))
        tokens = itertools.cycle(itertools.chain.from_iterable(examples["input_ids"]))
        constants = {"attention_mask": 1, "token_type_ids": 0}
        text = {name: [[constants.get(name)] * self.max_length] for name in examples.column_names}
        text["input_ids"] = [list(itertools.islice(tokens, self.max_length))]
        return Dataset.from_dict(text, features=examples.features)

    @property
    def metric(self) -> str:
        return deciding_metric(self.problem_type)

    def labels(self, split: str) -> np.ndarray:
        return label_array(self.splits[split])

    def scores(self, logits: np.ndarray, split: str) -> dict[str, float]:
        """Returns the scores of answers to a split, by name."""
        return self.compute_metrics(EvalPrediction(logits, self.labels(split)))

    def gate(self, float32_logits: np.ndarray) -> Gate:
        """Returns the gate for int8, from float32's answers to the validation split."""
        thresholds = None
        if self.problem_type == MULTI_LABEL:
            thresholds = np.array([self.thresholds[name] for name in self.names])
        labels = self.labels(self.validation_split)
        return Gate(float32_logits, labels, self.problem_type, self.names, thresholds)
