"""What a student and its teacher must share, because their logits are compared by position and their inputs are equal.

check_apart(student, teacher)    # and what they may not share
check_match(student, teacher, tokenizer)
check_logits(student_logits, teacher_logits)
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layer_distillation.dropout import dropout_rates
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import plain_model
from layer_distillation.vocabularies import check_vocabulary


def check_apart(student: nn.Module, teacher: nn.Module) -> None:
    """Checks that the training of the student changes nothing in the teacher.

    Frozen modules that compute the same in training and evaluation, such as word embeddings, may be in both models.

    Raises:
        UserError: both hold a weight that the student trains, or a module with dropout or batch normalization, which
            the student would switch on in the teacher.
    """
    trained = {_memory(weight) for weight in student.parameters() if weight.requires_grad}
    switched = {id(module) for module in teacher.modules() if isinstance(module, _BatchNorm)}
    switched |= {id(module) for module, _, rate in dropout_rates(teacher) if rate > 0}
    switched &= {id(module) for module in student.modules()}
    weights = [name for name, weight in teacher.named_parameters() if _memory(weight) in trained]
    modules = [path or "the whole model" for path, module in teacher.named_modules() if id(module) in switched]
    for shared, problem in (
        (weights, "which the student trains and the teacher must keep"),
        (modules, "which compute something else in the training of the student"),
    ):
        if shared:
            raise UserError(
                f"Student and teacher share parts in memory ({', '.join(shared[:2])}), {problem}. Build the student "
                "with `build_student`, which copies the layers, or pass `copy.deepcopy(teacher)` as the "
                "`teacher_model`."
            )


def _memory(weight: nn.Parameter) -> int:
    """Returns a number that weights over the same memory share; weights without values have one each."""
    return weight.untyped_storage().data_ptr() or id(weight)


def check_match(student: nn.Module, teacher: nn.Module, tokenizer: PreTrainedTokenizerBase | object | None) -> None:
    """Checks that both models have the same labels and problem type, and read the same vocabulary.

    Nothing is known of a module that is no `PreTrainedModel`: a config that it holds may be that of a part.

    Args:
        tokenizer: of the student, as for `check_vocabulary`.

    Raises:
        UserError: the labels, their order, the problem types or the vocabularies differ.
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
    types = teacher.config.problem_type, student.config.problem_type
    if None not in types and types[0] != types[1]:
        raise UserError(
            f"The teacher is trained for {types[0]}, but the student's `problem_type` is {types[1]}: the teacher's "
            "logits would be taken for other probabilities. Give both models the type of the teacher's training."
        )
    check_vocabulary(teacher, student, tokenizer)


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
