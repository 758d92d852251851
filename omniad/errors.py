"""The exception for mistakes that a user can fix."""


class UserError(Exception):
    """A problem with the input, in one line: what, where, what to do. It is shown without a traceback."""


class NotInstalled(UserError):
    """A library is missing that only some of the methods need."""
