"""The one exception that users see."""


class NldiffError(ValueError):
    """A problem in the user's terms: one line that names the file, option or value and the reason.

    The command line prints the message and exits with a non-zero status; the library raises it.
    """
