"""The columns of a data set that hold outputs of a teacher. Reading data needs their names, and no torch.

is_stored_output("teacher_logits")    # True
"""

TEACHER_LOGITS = "teacher_logits"
TEACHER_HIDDEN_STATES = "teacher_hidden_states_{layer}"


def is_stored_output(column: str) -> bool:
    """Returns whether a column of a data set holds stored outputs of a teacher."""
    return column == TEACHER_LOGITS or column.startswith(TEACHER_HIDDEN_STATES.format(layer=""))
