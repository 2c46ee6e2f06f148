"""Exceptions shared by all packages."""


class UserError(Exception):
    """An error in the user's input: one sentence with the value got, what is allowed and what to do.

    The commands print it without a traceback and exit with code 2. Jobs of a sweep raise it too, since `sys.exit` would end
    the whole sweep.
    """


class Pruned(Exception):
    """The search stops this trial early: training ends, and no test numbers are computed."""
