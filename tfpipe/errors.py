"""The one exception that is shown to a user without a traceback."""


class UserError(Exception):
    """A mistake that the user can mend; its message is the whole of what is shown.

    The message is one line: what is wrong, where (path or flag, with its value), what is
    allowed, and what to do next.

    Attributes:
        status: the exit status of the command, 1 unless given.
    """

    def __init__(self, message: str, *, status: int = 1):
        super().__init__(message)
        self.status = status


class ResumableError(UserError):
    """One that lies in the machine, as a full disk: once it is mended, the same command goes on."""


def one_line(text: object) -> str:
    """Returns `text` with every unprintable character escaped, so that it fills one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
