"""The one error a user is meant to read."""


class UserError(ValueError):
    """Something a person asked for cannot be done.

    Its text is one sentence that says what was wrong, with which value, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """
