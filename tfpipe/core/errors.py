"""Errors that a user sees without a traceback, and files that are left out."""


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


class Rejected(Exception):  # noqa: N818 (it is an outcome to be listed, not a failure)
    """One file that cannot be used, while the others can.

    Attributes:
        reason: one of a few short fixed phrases, to count by.
        detail: a sentence for the person who has to mend it; may hold any character.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def one_line(text: object) -> str:
    """Returns `text` with every unprintable character escaped, so that it fills one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
