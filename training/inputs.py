"""The data of a run in every form that its steps need."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import IntervalStrategy

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.batches import check_makes_a_batch
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_dataset
from layer_distillation.model_outputs import MODEL_INPUTS
from layer_distillation.pretrained import resolve_checkpoint
from layer_distillation.problem_types import REGRESSION
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_distillation.word_embeddings import keep_pieces
from text_data.answers import label_array, label_indicators
from text_data.arguments import DataArguments
from text_data.loading import TextClassificationData, load_data
from text_data.metrics import build_compute_metrics
from text_data.thresholds import ThresholdRule
from text_data.tokenizing import prepare_for_saving, tokenize
from text_data.trimming import TrimmedVocabulary, token_ids, trim_vocabulary
from training.arguments import TeacherArguments, VocabularyArguments
from training.checkpoints import load_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The data of a run in every form that its steps need.

    Attributes:
        data: raw splits and label map.
        tokenized: the same splits as a model reads them.
        tokenizer, collator, compute_metrics: as a `Trainer` takes them.
        threshold_rule: how the thresholds of the labels are chosen.
        of_teacher: the same texts as the teacher reads them; `None` if teacher and student read them alike.
        vocabulary: what is kept of the vocabulary, `None` if all is.
    """

    data: TextClassificationData
    tokenized: DatasetDict
    tokenizer: PreTrainedTokenizerBase
    collator: Callable
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    threshold_rule: ThresholdRule = ThresholdRule()
    of_teacher: "Inputs | None" = None
    vocabulary: TrimmedVocabulary | None = None

    @property
    def read_by_teacher(self) -> "Inputs":
        """The texts as the teacher reads them."""
        return self if self.of_teacher is None else self.of_teacher

    @cached_property
    def are_read_token_by_token(self) -> bool:
        """Whether each token of a training text is the same piece for teacher and student."""
        if self.of_teacher is None:
            return True
        if self.vocabulary is None:
            return False
        ids, lengths = token_ids(self.tokenized["train"])
        teacher_ids, teacher_lengths = token_ids(self.of_teacher.tokenized["train"])
        return np.array_equal(lengths, teacher_lengths) and np.array_equal(self.vocabulary.kept[ids], teacher_ids)

    def training_sample(self, number: int, seed: int) -> Dataset:
        """Returns so many training examples, drawn at random; all if there are fewer."""
        examples = self.tokenized["train"].shuffle(seed=seed, keep_in_memory=True)
        return examples.select(range(min(number, len(examples))), keep_in_memory=True)

    def read_by(self, model: PreTrainedModel) -> PreTrainedModel:
        """Returns a model of the whole vocabulary as it reads these inputs.

        Raises:
            UserError: as `keep_pieces`.
        """
        if self.vocabulary is None:
            return model
        return keep_pieces(model, self.vocabulary.kept, self.tokenized["train"], self.collator)

    @property
    def vocabulary_summary(self) -> Mapping | None:
        """What the record of a run says about a trimmed vocabulary."""
        return None if self.vocabulary is None else self.vocabulary.summary

    @property
    def hold_teacher_logits(self) -> bool:
        """Whether the training data hold the scores of a teacher."""
        return TEACHER_LOGITS in self.tokenized["train"].column_names

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the tokenized examples of every split, their labels and the scores of a teacher that the data hold."""
        columns = (*MODEL_INPUTS, "labels", TEACHER_LOGITS)
        return {name: fingerprint_dataset(split, columns) for name, split in self.tokenized.items()}

    @property
    def validation(self) -> Dataset:
        """The first validation split, tokenized."""
        return self.tokenized[self.data.validation_splits[0]]

    @property
    def reported_split(self) -> str:
        """The split that results are reported on: test where its labels are known, else validation."""
        splits = (*self.data.test_splits, *self.data.validation_splits)
        return next(split for split in splits if "labels" in self.tokenized[split].column_names)


def load_inputs(
    path: str, teacher_args: TeacherArguments, data_args: DataArguments, training_args: DistillationTrainingArguments
) -> Inputs:
    """Loads and tokenizes the data, with the tokenizer of the checkpoint at `path`.

    Raises:
        UserError: something is wrong with the data, or they do not fit the training that is asked for.
    """
    data = load_data(data_args, training_args.seed)
    training_args.check_number_of_labels(data.labels.num_labels)
    tokenizer = load_tokenizer(path, teacher_args.tokenizer_name, teacher_args.teacher_revision)
    inputs = Inputs(
        data=data,
        **_tokenized(data, tokenizer, data_args, training_args),
        compute_metrics=build_compute_metrics(data.labels, data_args.task_name),
        threshold_rule=ThresholdRule.parse(data_args.threshold_rule),
    )
    if training_args.do_train:
        check_makes_a_batch(inputs.tokenized["train"], training_args)
        _check_metric_for_best_model(inputs, training_args)
    return inputs


def _check_metric_for_best_model(inputs: Inputs, training_args: DistillationTrainingArguments) -> None:
    """Raises a `UserError` for a metric that `Trainer` would miss in its first evaluation.

    The data decide which there are: they are those of predictions that are all right.
    """
    metric = (training_args.metric_for_best_model or "loss").removeprefix("eval_")
    if metric == "loss" or training_args.eval_strategy == IntervalStrategy.NO:
        return
    labels, label_ids = inputs.data.labels, label_array(inputs.validation)
    if labels.problem_type == REGRESSION:
        logits = label_ids[:, None]
    else:
        logits = np.nan_to_num(label_indicators(label_ids, labels.problem_type, labels.num_labels))
    known = ["loss", *inputs.compute_metrics(EvalPrediction(logits, label_ids))]
    if metric not in known:
        raise UserError(
            f"--metric_for_best_model {metric} is no metric of these validation data. Name one of {', '.join(known)}."
        )


def _tokenized(
    data: TextClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    data_args: DataArguments,
    training_args: DistillationTrainingArguments,
) -> dict:
    """Returns the fields of `Inputs` that depend on the tokenizer."""
    with training_args.main_process_first(desc="tokenizing"):
        tokenized = tokenize(data, tokenizer, data_args)
    prepare_for_saving(tokenizer, data_args.max_seq_length)
    return {"tokenized": tokenized, "tokenizer": tokenizer, "collator": DataCollatorWithPadding(tokenizer)}


def read_by_student(
    inputs: Inputs,
    student_name_or_path: str | None,
    data_args: DataArguments,
    training_args: DistillationTrainingArguments,
) -> Inputs:
    """Returns the inputs as the student reads them: with its own tokenizer, if it makes other tokens of the texts.

    Args:
        inputs: as the teacher reads them.
        student_name_or_path: `None` for a student of teacher layers, which has the teacher's tokenizer.
    """
    if student_name_or_path is None:
        return inputs
    tokenizer = load_tokenizer(resolve_checkpoint(student_name_or_path))
    own = replace(inputs, **_tokenized(inputs.data, tokenizer, data_args, training_args), of_teacher=inputs)
    readings = [
        [fingerprint_dataset(split, ("input_ids",)) for split in splits.values()]
        for splits in (own.tokenized, inputs.tokenized)
    ]
    if readings[0] == readings[1]:
        return inputs
    logger.info(f"{student_name_or_path} reads the texts with its own tokenizer, the teacher with another one.")
    return own


def with_trimmed_vocabulary(
    inputs: Inputs,
    vocabulary_args: VocabularyArguments,
    data_args: DataArguments,
    training_args: DistillationTrainingArguments,
) -> Inputs:
    """Returns the inputs as a student with a trimmed vocabulary reads them, if one is asked for.

    Raises:
        UserError: as `trim_vocabulary`.
    """
    if not vocabulary_args.trim_vocabulary:
        return inputs
    size = vocabulary_args.vocabulary_size
    vocabulary = trim_vocabulary(inputs.data, inputs.tokenized, inputs.tokenizer, size)
    return replace(
        inputs,
        **_tokenized(inputs.data, vocabulary.tokenizer, data_args, training_args),
        of_teacher=inputs.read_by_teacher,
        vocabulary=vocabulary,
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
    if not teacher_is_trained and not inputs.hold_teacher_logits:
        raise UserError(
            "The training examples have no labels, so that a teacher with a new head cannot be fine-tuned on them. "
            "Name one that is trained: --teacher_name_or_path."
        )
