"""The one class of error for what a user can cause.

raise UserError(f"--temperature must be > 0, found {temperature}. Use 1 to leave the predictions unsoftened.")
"""


class UserError(ValueError):
    """An argument, a file or a model that cannot be used. Its message gives the rule, the value found and the fix.

    The commands print it in one line, without a traceback.
    """
