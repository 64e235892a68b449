"""What a student and its teacher must share, because their logits are compared by position and their inputs are equal.

check_match(student, teacher)
check_logits(student_logits, teacher_logits)
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.model_outputs import plain_model


def check_match(student: nn.Module, teacher: nn.Module) -> None:
    """Checks that both models have the same labels and read the same vocabulary.

    Nothing is known of a module that is no `PreTrainedModel`: a config that it holds may be that of a part.

    Raises:
        UserError: the labels, their order or the sizes of the vocabularies differ.
    """
    student, teacher = plain_model(student), plain_model(teacher)
    if not (isinstance(student, PreTrainedModel) and isinstance(teacher, PreTrainedModel)):
        return
    if teacher.config.num_labels != student.config.num_labels:
        raise UserError(
            f"The teacher has {teacher.config.num_labels} labels and the student {student.config.num_labels}. "
            "Build the student from this teacher, or load it with the teacher's `num_labels` and `id2label`."
        )
    if teacher.config.id2label != student.config.id2label:
        raise UserError(
            f"The teacher's labels are {teacher.config.id2label} and the student's {student.config.id2label}. "
            "Logits are compared by position: give both the same names in the same order."
        )
    # The configs of models of images or sounds have no vocabulary.
    sizes = [getattr(model.config.get_text_config(), "vocab_size", None) for model in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"The teacher's vocabulary has {sizes[0]} tokens and the student's {sizes[1]}, but both read the same "
            "`input_ids`. Choose a student with the teacher's tokenizer."
        )


def check_logits(student_logits: torch.Tensor | None, teacher_logits: torch.Tensor | None) -> None:
    """Checks that both models return logits of the same shape.

    Broadcasting would take (batch,) and (batch, 1) for a table of all pairs of examples.

    Raises:
        UserError: a model returns none, or the shapes differ.
    """
    shapes = [None if logits is None else tuple(logits.shape) for logits in (teacher_logits, student_logits)]
    if None in shapes or shapes[0] != shapes[1]:
        raise UserError(
            f"`teacher_logits` have the shape {shapes[0]}, the student's `logits` {shapes[1]}. Both need `num_labels` "
            "numbers for every example."
        )
