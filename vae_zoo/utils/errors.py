"""Exceptions that every part of the project knows."""


class UserError(Exception):
    """A mistake in what the user gave: one sentence that says what was got, what is allowed and what to do.

    The commands print it without a traceback and end with exit code 2; jobs of a sweep raise it too, never `sys.exit`,
    which would end the whole sweep.
    """


class Pruned(Exception):
    """A search has seen enough of this trial: training ends here, and no test numbers are computed."""
