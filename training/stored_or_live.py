"""Whether a student learns from stored teacher outputs, or from a teacher that runs in every step.

signal = teacher_signal(teacher, student, layers, inputs, training_args)
signal.train_dataset, signal.teacher_model    # the model is None where all outputs are stored
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.errors import UserError
from layer_distillation.layer_losses import try_layer_losses
from layer_distillation.loss_table import LAYER_LOSSES
from layer_distillation.model_outputs import longest_first, with_model_inputs
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_distillation.teacher_outputs import (
    add_teacher_hidden_states,
    add_teacher_logits,
    check_hidden_states_size,
    hidden_states_size,
)
from layer_mapping import spread_evenly
from training.arguments import TeacherArguments
from training.inputs import Inputs
from training.teacher import Teacher, TeacherStart

logger = logging.getLogger(__name__)

OTHER_TOKENS = "with this --student_name_or_path or --vocabulary_size the student reads other tokens than the teacher"
NUM_SAMPLED = 100  # texts, among which two are looked for


@dataclass(frozen=True)
class TeacherSignal:
    """What the losses of a training compare the student with.

    Attributes:
        train_dataset: the training examples, with the teacher's outputs where they are stored.
        teacher_model: runs in every step; `None` where the outputs are stored or not needed.
        teacher_layers: the teacher's layer, 1-based, for each of the student's; `None` where no layers are compared.
    """

    train_dataset: Dataset
    teacher_model: PreTrainedModel | None = None
    teacher_layers: tuple[int, ...] | None = None


def teacher_signal(
    teacher: Teacher,
    student: PreTrainedModel,
    layers: Sequence[int],
    inputs: Inputs,
    training_args: DistillationTrainingArguments,
) -> TeacherSignal:
    """Stores the outputs of the teacher that the losses need, or loads the teacher to run in every step.

    Args:
        layers: of the teacher that the student was built from; `()` for a student that was not: it is compared with
            evenly spread layers.
    """
    dataset = inputs.tokenized["train"]
    if not training_args.needs_teacher:
        return TeacherSignal(dataset)
    model, compared = teacher.load(training_args.device), None
    if training_args.needs_teacher_layers:
        compared = _compared(layers, model, student)
    if not _are_stored(teacher.args, training_args):
        if teacher.args.teacher_cache:
            logger.info(_why_live(model, compared, inputs, training_args))
        return TeacherSignal(dataset, inputs.read_by(model), compared)
    if training_args.uses("kl", "cosine"):
        dataset = with_teacher_logits(inputs, model, teacher.args, training_args)
    if training_args.needs_hidden_states:
        different, how = sorted(set(compared)), _storing(teacher.args, inputs, training_args)
        max_bytes = _max_bytes(teacher.args)
        dataset = add_teacher_hidden_states(dataset, inputs.read_by(model), different, max_bytes=max_bytes, **how)
    return TeacherSignal(dataset, None, compared)


def with_teacher_logits(
    inputs: Inputs,
    teacher: PreTrainedModel,
    teacher_args: TeacherArguments,
    training_args: DistillationTrainingArguments,
) -> Dataset:
    """Returns the training examples with `teacher_logits`: those that the data hold, or the teacher's."""
    dataset, read = inputs.tokenized["train"], inputs.read_by_teacher
    if inputs.hold_teacher_logits:
        return dataset
    stored = add_teacher_logits(read.tokenized["train"], teacher, **_storing(teacher_args, read, training_args))
    return concatenate_datasets([dataset, stored.select_columns(TEACHER_LOGITS)], axis=1)


def check_losses(
    student: PreTrainedModel,
    layers: Sequence[int],
    start: TeacherStart,
    inputs: Inputs,
    training_args: DistillationTrainingArguments,
) -> None:
    """Raises a `UserError` for losses on layers that the models do not have, or that are too large to be stored.

    Args:
        student, start: of the architecture that student and teacher will have; their weights do not matter.
        layers: as for `teacher_signal`.
    """
    teacher, teacher_args = start.model, start.args
    if not inputs.are_read_token_by_token:
        _check_logits_are_enough(teacher_args, training_args)
    if inputs.hold_teacher_logits and training_args.needs_teacher and not _are_stored(teacher_args, training_args):
        raise UserError(
            "--teacher_column_name gives stored scores, but with --teacher_cache false, or with losses on layers that "
            "are not stored, a teacher of this project runs in every step and would be used instead. Leave "
            "--teacher_cache on and set --attention_weight and --relation_weight to 0; --hidden_weight needs "
            "--hidden_state_cache_gb."
        )
    if training_args.uses(*LAYER_LOSSES):
        read, batch = inputs.read_by(teacher), _texts_of_two_lengths(inputs)
        try_layer_losses(training_args, student, read, _compared(layers, teacher, student), batch)
    if training_args.needs_hidden_states and _are_stored(teacher_args, training_args):
        num_different = min(num_layers(student), num_layers(teacher))
        check_hidden_states_size(inputs.tokenized["train"], teacher, num_different, _max_bytes(teacher_args))


def _compared(layers: Sequence[int], teacher: PreTrainedModel, student: PreTrainedModel) -> tuple[int, ...]:
    """Returns the teacher's layer for each of the student's: the one it was copied from, or evenly spread ones."""
    return tuple(layers) or spread_evenly(num_layers(teacher), num_layers(unwrap_peft_model(student)))


def _texts_of_two_lengths(inputs: Inputs) -> Mapping[str, torch.Tensor]:
    """Returns a batch of the longest and the shortest of some training texts: with padding, and without labels."""
    texts = with_model_inputs(inputs.training_sample(NUM_SAMPLED, seed=0))
    return inputs.collator(texts.select(longest_first(texts)[[0, -1]]).to_list())


def _check_logits_are_enough(teacher_args: TeacherArguments, training_args: DistillationTrainingArguments) -> None:
    """Raises a `UserError` if more than stored logits is compared of models that read a text as different tokens."""
    if weights := [f"--{name}_weight" for name in LAYER_LOSSES if training_args.uses(name)]:
        raise UserError(
            f"{' and '.join(weights)} compare teacher and student token by token, but {OTHER_TOKENS}. Set the weight "
            "to 0, choose a student with the teacher's tokenizer, or use --trim_vocabulary without a size."
        )
    if training_args.needs_teacher and not teacher_args.teacher_cache:
        raise UserError(
            "With --teacher_cache false the teacher runs on the student's tokens in every step, but "
            f"{OTHER_TOKENS}. Leave --teacher_cache on."
        )


def _storing(teacher_args: TeacherArguments, inputs: Inputs, training_args: DistillationTrainingArguments) -> dict:
    """How the outputs of a run's teacher are computed and where they are kept: arguments of `add_teacher_logits`."""
    return {
        "cache_dir": teacher_args.teacher_cache_dir,
        "collator": inputs.collator,
        "batch_size": training_args.per_device_eval_batch_size,
        "bf16": training_args.bf16,
    }


def _are_stored(teacher_args: TeacherArguments, training_args: DistillationTrainingArguments) -> bool:
    has_room = not training_args.needs_hidden_states or teacher_args.hidden_state_cache_gb > 0
    return teacher_args.teacher_cache and has_room and not training_args.needs_running_teacher


def _why_live(
    teacher: PreTrainedModel,
    compared: Sequence[int] | None,
    inputs: Inputs,
    training_args: DistillationTrainingArguments,
) -> str:
    if training_args.needs_running_teacher:
        return "The teacher runs in every step: attention and relations are not stored."
    size = hidden_states_size(inputs.tokenized["train"], teacher, len(set(compared)))
    return (
        f"The teacher runs in every step. Its hidden states would take {size / 1e9:.2f} GB: allow for them with "
        "--hidden_state_cache_gb to have them stored."
    )


def _max_bytes(teacher_args: TeacherArguments) -> int:
    return int(teacher_args.hidden_state_cache_gb * 1e9)
