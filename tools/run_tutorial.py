"""Runs the commands of docs/tutorial.md, and compares what they print with what it shows.

    python tools/run_tutorial.py --train=train.zip --test=test1.zip --weights=mobilenet.h5 --out=DIR

A command is a line of a ```console block that begins with `$ `, up to a line without a backslash at
its end; the lines after it are what it prints, in their order, others left out. There `...` stands
for anything, and any number for any other. A command that ends with & goes on beside the next ones,
which wait until it has printed what is shown. Ports are exchanged for free ones. What a command
prints is kept in DIR/output.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

ROOT = pathlib.Path(__file__).resolve().parent.parent

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"(?:(?<=\s)[-+])?\d[\d.,]*(?:e[-+]?\d+)?")
_PORT = re.compile(r"(?<=port=)\d+|(?<=127\.0\.0\.1:)\d+")
_READY_S = 180


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    train: str = option("labelled images, which the tutorial calls train.zip")
    test: str = option("images without labels, which the tutorial calls test1.zip")
    weights: str = option("weights of MobileNet without its top, which it calls mobilenet.h5")
    out: str = option("new folder to run the commands in")
    tutorial: str = option("the page", str(ROOT / "docs" / "tutorial.md"))
    compare: bool = option("whether a line that is shown and not printed is an error", True)


class Step(NamedTuple):
    """One command of the tutorial.

    Attributes:
        command: as for a shell, in one line.
        shown: the lines that it is said to print.
    """

    command: str
    shown: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether it goes on beside the next ones."""
        return self.command.endswith("&")


def main(options: Options) -> None:
    """Runs all commands; raises UserError for the first that is not as the tutorial says."""
    page = pathlib.Path(options.tutorial).read_text(encoding="utf-8")
    folder = _prepare(options)
    ports: dict[str, str] = {}
    with contextlib.ExitStack() as running:
        for number, step in enumerate(steps(page), start=1):
            command = _PORT.sub(lambda found: _exchanged(found[0], ports), step.command)
            terminal.say(f"$ {command}")
            log = folder / "output" / f"{number:02}.txt"
            began = time.monotonic()
            printed = running.enter_context(_run(command.removesuffix("&"), step, folder, log))
            if options.compare and (lost := missing(step.shown, printed)):
                raise UserError(
                    f"{options.tutorial}: of {step.command!r} it shows {lost!r}, which was not"
                    f" printed; see {log}"
                )
            terminal.say(f"  {time.monotonic() - began:.1f} s")


def steps(page: str) -> list[Step]:
    """Returns the commands of a page with what it shows of their output."""
    found: list[Step] = []
    for block in _BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line.removeprefix("$ "), ()))
            elif found[-1].command.endswith("\\"):
                joined = found[-1].command.removesuffix("\\") + line.lstrip()
                found[-1] = found[-1]._replace(command=joined)
            else:
                found[-1] = found[-1]._replace(shown=(*found[-1].shown, line))
    return found


def missing(shown: tuple[str, ...], printed: str) -> str:
    """Returns the first line of `shown` that does not come after the one before it in `printed`.

    Numbers and the width of gaps do not count, and `...` is anything. If none is missing, "".
    """
    lines = iter([_plain(line) for line in printed.splitlines()])
    for line in shown:
        pattern = ".*".join(re.escape(part) for part in _plain(line).split("..."))
        if pattern != ".*" and not any(re.fullmatch(pattern, each) for each in lines):
            return line
    return ""


def _plain(line: str) -> str:
    """Returns a line without what may differ from run to run."""
    held = line.replace("...", "\0")  # a number does not begin with a full stop
    return re.sub(r"[\s─]+", " ", _NUMBER.sub("#", held)).strip().replace("\0", "...")


def _prepare(options: Options) -> pathlib.Path:
    """Makes the folder, with all files that the commands name."""
    inputs = {
        "train.zip": options.train,
        "test1.zip": options.test,
        "mobilenet.h5": options.weights,
        "configs": str(ROOT / "configs"),
        "tools": str(ROOT / "tools"),
    }
    for name, path in inputs.items():
        if not pathlib.Path(path).exists():
            raise UserError(f"{path!r}, for {name}, does not exist")
    folder = pathlib.Path(options.out).resolve()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out={options.out}: {error.strerror}: name a new folder") from None
    (folder / "output").mkdir()
    for name, path in inputs.items():
        (folder / name).symlink_to(pathlib.Path(path).resolve())
    return folder


@contextlib.contextmanager
def _run(command: str, step: Step, folder: pathlib.Path, log: pathlib.Path) -> Iterator[str]:
    """Runs a command and yields what it has printed; one that stays is ended at the end."""
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            # A tutorial's reader types into a shell; `exec` lets a signal reach what stays.
            ["bash", "-c", f"exec {command}" if step.stays else command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        if step.stays:
            _wait_until_ready(process, step, log)
        elif process.wait():
            raise UserError(
                f"{command!r} ended with status {process.returncode}: {_last_line(log)}; see {log}"
            )
        yield log.read_text(encoding="utf-8")
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen, step: Step, log: pathlib.Path) -> None:
    deadline = time.monotonic() + _READY_S
    while missing(step.shown, log.read_text(encoding="utf-8")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(
                f"{step.command!r} has not printed what is shown: {_last_line(log)}; see {log}"
            )
        time.sleep(0.1)


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _exchanged(port: str, ports: dict[str, str]) -> str:
    """Returns the free port that stands for one of the tutorial's, each time the same."""
    if port not in ports:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            ports[port] = str(taken.getsockname()[1])
    return ports[port]


if __name__ == "__main__":
    cli.run(main, Options)
