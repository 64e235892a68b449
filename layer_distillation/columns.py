"""Which columns of a batch each model reads: those that `Trainer` would give it, without what is meant for the other.

columns = Columns(student, teacher, remove_unused_columns=True)
student(**columns.of_student(batch))
teacher(**columns.of_teacher(batch, without=("labels",)))
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from layer_distillation.model_outputs import forward_names, takes_every_column
from layer_distillation.stored_columns import is_stored_output


class Columns:
    """The columns that a student and its teacher read.

    Args:
        student, teacher: the teacher may be `None`.
        remove_unused_columns: whether `Trainer` has removed the columns that `forward` does not name. If not, a model
            whose `forward` takes `**kwargs` gets them, as from `Trainer`.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None, remove_unused_columns: bool):
        self._student_names, self._student_takes_all = forward_names(student), takes_every_column(student)
        self.of_teacher_by_name = set() if teacher is None else forward_names(teacher)
        self._teacher_takes_all = teacher is not None and not remove_unused_columns and takes_every_column(teacher)
        self._of_teacher_alone = self.of_teacher_by_name - self._student_names if remove_unused_columns else set()

    def of_student(self, batch: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
        """Returns what the student reads of a batch, labels included."""
        return {name: batch[name] for name in batch if self._is_of_student(name) and name not in without}

    def of_teacher(self, batch: Mapping[str, Any], without: Collection[str]) -> dict[str, Any]:
        """Returns what the teacher reads of a batch."""
        return {name: batch[name] for name in batch if self._is_of_teacher(name) and name not in without}

    def _is_of_student(self, name: str) -> bool:
        if name in self._student_names:
            return True
        return self._student_takes_all and not is_stored_output(name) and name not in self._of_teacher_alone

    def _is_of_teacher(self, name: str) -> bool:
        return name in self.of_teacher_by_name or (self._teacher_takes_all and not is_stored_output(name))
