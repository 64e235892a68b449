"""The data of a run in every form that its steps need."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from datasets import DatasetDict
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_dataset
from layer_distillation.model_outputs import MODEL_INPUTS
from text_data.arguments import DataArguments
from text_data.loading import TextClassificationData, load_data
from text_data.metrics import build_compute_metrics
from text_data.thresholds import ThresholdRule
from text_data.tokenizing import prepare_for_saving, tokenize
from training.arguments import TeacherArguments
from training.checkpoints import load_tokenizer


@dataclass(frozen=True)
class Inputs:
    """The data of a run in every form that its steps need.

    Attributes:
        data: raw splits and label map.
        tokenized: the same splits as a model reads them.
        tokenizer, collator, compute_metrics: as a `Trainer` takes them.
        threshold_rule: how the thresholds of the labels are chosen.
    """

    data: TextClassificationData
    tokenized: DatasetDict
    tokenizer: PreTrainedTokenizerBase
    collator: Callable
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    threshold_rule: ThresholdRule = ThresholdRule()

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the tokenised examples of every split and their labels."""
        return {name: fingerprint_dataset(split, (*MODEL_INPUTS, "labels")) for name, split in self.tokenized.items()}

    @property
    def reported_split(self) -> str:
        """The split that results are reported on: test where its labels are known, else validation."""
        splits = (*self.data.test_splits, *self.data.validation_splits)
        return next(split for split in splits if "labels" in self.tokenized[split].column_names)


def load_inputs(
    path: str, teacher_args: TeacherArguments, data_args: DataArguments, training_args: DistillationTrainingArguments
) -> Inputs:
    """Loads and tokenises the data, with the tokenizer of the checkpoint at `path`."""
    data = load_data(data_args, training_args.seed)
    training_args.check_number_of_labels(data.labels.num_labels)
    tokenizer = load_tokenizer(path, teacher_args.tokenizer_name, teacher_args.teacher_revision)
    with training_args.main_process_first(desc="tokenising"):
        tokenized = tokenize(data, tokenizer, data_args)
    prepare_for_saving(tokenizer, data_args.max_seq_length)
    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)
    return Inputs(
        data,
        tokenized,
        tokenizer,
        DataCollatorWithPadding(tokenizer),
        compute_metrics,
        ThresholdRule.parse(data_args.threshold_rule),
    )


def check_training_labels(
    inputs: Inputs, training_args: DistillationTrainingArguments, teacher_is_trained: bool
) -> None:
    """Raises a `UserError` if the training examples have no labels but student or teacher would learn from them."""
    if "labels" in inputs.tokenized["train"].column_names:
        return
    if training_args.uses("ce"):
        raise UserError(
            "The training examples have no labels, but --ce_weight is positive. Name their column "
            "(--label_column_name), or have the student learn from its teacher alone: --ce_weight 0 --kl_weight 1."
        )
    if not teacher_is_trained:
        raise UserError(
            "The training examples have no labels, so that a teacher with a new head cannot be fine-tuned on them. "
            "Name one that is trained: --teacher_name_or_path."
        )
