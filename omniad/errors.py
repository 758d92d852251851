"""The one exception for mistakes a person can mend."""


class UserError(Exception):
    """A problem with the input, told in one line: what, where, what to do. It is shown without a traceback."""


class NotInstalled(UserError):
    """A library is missing that only some of the methods need."""
