"""Errors that a user sees without a traceback, and files that are left out."""

import re
from collections.abc import Container

# The function of the Python API for each command that has one.
_FUNCTIONS = {
    "build_records": "build",
    "train": "fit",
    "evaluate": "Run.evaluate",
    "export": "Run.export",
}


class UserError(Exception):
    """A mistake that the user can mend; its message is the whole of what is shown.

    The message is one line: what is wrong, where (path or option, with its value), what is
    allowed, and what to do next. Library code writes an option in backticks, with its value where
    that helps: "`image_size=0` is too small: give at least 32". The commands show it as a flag
    (`as_flags`), and exit with `status`.
    """

    def __init__(self, message: str, *, status: int = 1):
        super().__init__(message)
        self.status = status


class ResumableError(UserError):
    """A fault of the machine, such as a full disk: after the repair, run the same command again."""


class Rejected(Exception):  # noqa: N818 (an outcome to list, not a failure)
    """A file that cannot be used; the others can."""

    def __init__(self, reason: str, detail: str):
        """`reason` is one of a few fixed phrases, to count by; `detail` a sentence for people."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def as_flags(message: str, names: Container[str]) -> str:
    """Return "`epochs=-1` is negative" as "--epochs=-1 is negative" for the options `names`."""
    return re.sub(
        r"`([a-z_0-9]+)(=[^`]*)?`",
        lambda m: f"--{m[1]}{m[2] or ''}" if m[1] in names else m[0],
        message,
    )


def as_keywords(message: str) -> str:
    """Return a message of a command in the words of the Python API.

    "--epochs=-1 is negative" becomes "`epochs=-1` is negative", and "python -m tfpipe.build_records
    --overwrite" becomes "tfpipe.build(overwrite=True)".
    """
    names = "|".join(_FUNCTIONS)
    return re.sub(
        rf"(python -m )?tfpipe\.(?P<command>{names})\b(?P<flags>(?: --[^\s`]+)*)"
        r"|python -m [\w.]+(?: --[^\s`]+)*"
        r"|(?<![\w`-])--(?P<name>[a-z_0-9]+)(?P<value>=[^\s:,;()]*)?",
        _as_python,
        message,
    )


def _as_python(match: re.Match) -> str:
    if match["name"]:
        return f"`{match['name']}{match['value'] or ''}`"
    if not match["command"]:  # one that has no function
        return match[0]
    flags = [flag if "=" in flag else f"{flag}=True" for flag in match["flags"].split()]
    given = f"({', '.join(flag.removeprefix('--') for flag in flags)})" if flags else ""
    return f"tfpipe.{_FUNCTIONS[match['command']]}{given}"


def one_line(text: object) -> str:
    """Return `text` on one line: every unprintable character is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
