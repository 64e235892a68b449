"""The one class of error for what a user can cause."""


class UserError(ValueError):
    """An argument, a file or a model that cannot be used. Its message gives the rule, the value found and the fix.

    The commands print it in one line, without a traceback.
    """
