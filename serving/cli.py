"""Commands of this package: one-line errors, a quiet terminal, an exit status."""

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(Exception):
    """A mistake that the user can mend; its message is the whole of what is shown.

    Attributes:
        status: the exit status of the command, 1 unless given.
    """

    def __init__(self, message: str, *, status: int = 1):
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """Flags whose mistakes are one line, with no guessing of shortened names."""

    def __init__(self, command: str, doc: str):
        """`command` is what the user types; the module's docstring `doc` is the help text."""
        super().__init__(
            prog=command,
            description=doc,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        self.add_argument(
            "--verbosity",
            type=number(int, -1, 1),
            default=-1,
            metavar="N",
            help="TensorFlow's and gRPC's own log: -1 none of it, 0 warnings, 1 all",
        )

    def error(self, message: str) -> None:
        """Raises UserError instead of printing the usage."""
        raise UserError(f"{message} (--help lists the flags)", status=2)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def number(kind: Callable, least: float, most: float = float("inf")) -> Callable:
    """Returns a flag's type: an int or a float from `least` to `most`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            upper = "" if most == float("inf") else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"{text} must be at least {least:g}{upper}")
        return value

    parse.__name__ = kind.__name__  # argparse says "invalid int value: 'x'"
    return parse


def boolean(text: str) -> bool:
    """The type of a flag that is true or false, as tensorflow_model_server writes them."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} must be true or false")


def run(main: Callable[[], int]) -> None:
    """Calls `main` and exits with its status; 1 or 2 for a UserError, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a file name need not be valid UTF-8
        stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except UserError as failure:
        error(str(failure))
        sys.exit(failure.status)
    except KeyboardInterrupt:
        error("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our standard output went away, as `head` does. Python would complain again
        # when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def quiet(verbosity: int) -> None:
    """Silences TensorFlow and gRPC; call it before either is imported.

    What a user has set in TF_CPP_MIN_LOG_LEVEL or GRPC_VERBOSITY wins.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", {-1: "3", 0: "1"}.get(verbosity, "0"))
    os.environ.setdefault("GRPC_VERBOSITY", {-1: "NONE", 0: "ERROR"}.get(verbosity, "INFO"))
    level = {-1: logging.CRITICAL, 0: logging.WARNING}.get(verbosity, logging.DEBUG)
    for name in ("tensorflow", "absl", "grpc"):
        logging.getLogger(name).setLevel(level)
    if verbosity < 1:
        warnings.simplefilter("ignore")


def cores() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how many images are done, where standard error is a terminal.

    Args:
        total: how many there are; None if that is not known.

    Yields:
        A function to be called with how many more are done.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "images", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("images", total=total)
        yield lambda count: bar.advance(task, count)


def say(message: object) -> None:
    """Prints one line of information to standard error."""
    print(one_line(message), file=sys.stderr, flush=True)


def error(message: object) -> None:
    """Prints one line that says what went wrong to standard error."""
    say(f"error: {message}")


def one_line(text: object) -> str:
    """Returns `text` with every unprintable character escaped, so that it fills one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
