"""What one of several processes does for all.

checkpoint = on_main_process(lambda: newest_checkpoint(folder))
"""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from layer_distillation.errors import UserError

Result = TypeVar("Result")


def on_main_process(action: Callable[[], Result]) -> Result:
    """Calls an action on the main process, and returns its result on every process.

    An error of the action ends every process: the others would wait for the main process otherwise.

    Raises:
        UserError: on the other processes, if the action fails. The main process raises the error of the action.
    """
    result, error = None, None
    if PartialState().is_main_process:
        try:
            result = action()
        except Exception as failure:
            error = failure
    result, message = broadcast_object_list([result, None if error is None else str(error)])
    if error is not None:
        raise error
    if message is not None:
        raise UserError(message)
    return result
