"""What a person sees while a command runs: messages, progress bars, tables.

Messages and progress go to standard error, results to standard output, so that a command's
result can be piped. A program that calls the library sees none of it (`logged`).
"""

import contextlib
import contextvars
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tfpipe.core import native_log
from tfpipe.core.errors import one_line

_messages = Console(stderr=True, highlight=False, soft_wrap=True)
_results = Console(highlight=False, soft_wrap=True)

# Without a terminal, print one plain line of progress at most this often.
PLAIN_INTERVAL_S = 10.0

# Of the library: its messages, and whether they go there instead of to the terminal.
LOGGER = logging.getLogger("tfpipe")
_logs = contextvars.ContextVar("logs", default=False)

_quiet = False


@contextlib.contextmanager
def logged(logs: bool = True) -> Iterator[None]:
    """Send messages of the block to the logger "tfpipe", without progress, results and tables.

    It holds for this thread only. With False the block prints as a command does.
    """
    token = _logs.set(logs)
    try:
        yield
    finally:
        _logs.reset(token)


def be_quiet(quiet: bool) -> None:
    """Set whether only warnings, errors and results are shown."""
    global _quiet
    _quiet = quiet


def quiet_tensorflow(verbosity: int) -> None:
    """Silence TensorFlow's and gRPC's own logs; call it before either is imported.

    A verbosity of -1 shows only fatal errors, 0 warnings, 1 everything. What a user has set in
    TF_CPP_MIN_LOG_LEVEL or GRPC_VERBOSITY wins.
    """
    cpp_level = {-1: "3", 0: "1"}.get(verbosity, "0")
    python_level = {-1: logging.ERROR, 0: logging.WARNING}.get(verbosity, logging.DEBUG)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", cpp_level)
    os.environ.setdefault("GRPC_VERBOSITY", {-1: "NONE", 0: "ERROR"}.get(verbosity, "INFO"))
    if verbosity < 1:
        native_log.hide("IWE" if verbosity < 0 else "I")
    for name in ("tensorflow", "absl", "h5py", "grpc"):
        logging.getLogger(name).setLevel(python_level)
    if verbosity < 1:
        warnings.simplefilter("ignore")


def say(message: str) -> None:
    """Print one line of information."""
    if _logs.get():
        LOGGER.info(one_line(message))
    elif not _quiet:
        _messages.print(one_line(message), markup=False)


def warn(message: str) -> None:
    """Print one line that a user should not miss."""
    if _logs.get():
        LOGGER.warning(one_line(message))
        return
    _messages.print(f"warning: {one_line(message)}", style="yellow", markup=False)


def error(message: str) -> None:
    """Print the one line that explains why the command ends."""
    if _logs.get():
        LOGGER.error(one_line(message))
        return
    _messages.print(f"error: {one_line(message)}", style="red", markup=False)


def result(text: str) -> None:
    """Print a line of the command's result to standard output."""
    if _logs.get():
        return
    _results.print(one_line(text), markup=False)


def show_table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Print a table to standard output; columns after the first are right-aligned."""
    if _logs.get():
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(columns):
        justify = "left" if index == 0 else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    _results.print(table)


@contextlib.contextmanager
def progress(description: str, total: int | None, unit: str = "images") -> Iterator[Callable]:
    """Show the progress of a long step: a bar on a terminal, else a line every 10 seconds.

    Yields:
        A function `advance(n=1, note="")` to call when n more units are done; the note follows the
        figures.
    """
    if _logs.get():
        yield lambda n=1, note="": None
    elif _messages.is_terminal and not _quiet:
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        yield _plain(description, total, unit)


@contextlib.contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Callable]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=_messages, transient=True) as bar:
        task = bar.add_task(description, total=total, rate="", note="")

        def advance(n: int = 1, note: str = "") -> None:
            done = bar.tasks[0].completed + n
            rate = _rate(done, time.monotonic() - start)
            bar.update(task, advance=n, rate=f"{rate} {unit}/s", note=note)

        yield advance


def _plain(description: str, total: int | None, unit: str) -> Callable:
    start = last = time.monotonic()
    done = 0

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_S and done != total:
            last = now
            of_total = f" of {total}" if total is not None else ""
            rate = _rate(done, now - start)
            say(f"{description}: {done}{of_total} {unit}, {rate}/s {note}".rstrip())

    return advance


def _rate(done: float, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
