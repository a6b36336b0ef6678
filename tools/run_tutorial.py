"""Runs the commands of docs/tutorial.md and compares their output with the shown output.

    python tools/run_tutorial.py --train=train.zip --test=test1.zip --weights=mobilenet.h5 --out=DIR

A command starts with `$ ` in a ```console block and ends at the first line without a backslash. The
lines after it show its output in order; other lines may come between. `...` stands for anything,
and a number for any number. A command that ends with & stays running; the next ones wait until it
has printed its shown lines. Free ports replace the page's. DIR/output keeps all output.
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
    """The options of this command."""

    train: str = option("labelled images: train.zip in the tutorial")
    test: str = option("images without labels: test1.zip in the tutorial")
    weights: str = option("weights of MobileNet without its top: mobilenet.h5 in the tutorial")
    out: str = option("new folder for running the commands")
    tutorial: str = option("the page", str(ROOT / "docs" / "tutorial.md"))
    compare: bool = option("whether a shown line that is not printed is an error", True)


class TutorialStep(NamedTuple):
    """One command of the tutorial, a line for the shell, and the output shown there."""

    command: str
    shown: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether it stays running during the next commands."""
        return self.command.endswith("&")


def main(options: Options) -> None:
    """Run all commands; raise UserError for the first with other output than the tutorial's."""
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
                    f"{options.tutorial}: {step.command!r} did not print the shown line {lost!r};"
                    f" see {log}"
                )
            terminal.say(f"  {time.monotonic() - began:.1f} s")


def steps(page: str) -> list[TutorialStep]:
    """Return the commands of a page with their shown output."""
    found: list[TutorialStep] = []
    for block in _BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(TutorialStep(line.removeprefix("$ "), ()))
            elif found[-1].command.endswith("\\"):
                joined = found[-1].command.removesuffix("\\") + line.lstrip()
                found[-1] = found[-1]._replace(command=joined)
            else:
                found[-1] = found[-1]._replace(shown=(*found[-1].shown, line))
    return found


def missing(shown: tuple[str, ...], printed: str) -> str:
    """Return the first line of `shown` that `printed` does not contain in order, or "".

    Numbers and the widths of gaps are ignored, and `...` matches anything.
    """
    lines = iter([_plain(line) for line in printed.splitlines()])
    for line in shown:
        pattern = ".*".join(re.escape(part) for part in _plain(line).split("..."))
        if pattern != ".*" and not any(re.fullmatch(pattern, each) for each in lines):
            return line
    return ""


def _plain(line: str) -> str:
    """Return a line without the parts that may differ between runs."""
    held = line.replace("...", "\0")  # protects the dots from the pattern of numbers
    return re.sub(r"[\s─]+", " ", _NUMBER.sub("#", held)).strip().replace("\0", "...")


def _prepare(options: Options) -> pathlib.Path:
    """Make the folder with all files that the commands name."""
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
def _run(
    command: str, step: TutorialStep, folder: pathlib.Path, log: pathlib.Path
) -> Iterator[str]:
    """Run a command and yield its output; stop it at the end if it stays running."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pipes = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            # `exec`, so that a signal reaches the command and not only its shell.
            ["bash", "-c", f"exec {command}" if step.stays else command],
            cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            stdout=file, **pipes,
        )  # fmt: skip
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


def _wait_until_ready(process: subprocess.Popen, step: TutorialStep, log: pathlib.Path) -> None:
    deadline = time.monotonic() + _READY_S
    while missing(step.shown, log.read_text(encoding="utf-8")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(
                f"{step.command!r} did not print all shown lines: {_last_line(log)}; see {log}"
            )
        time.sleep(0.1)


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _exchanged(port: str, ports: dict[str, str]) -> str:
    """Return the free port that replaces a port of the tutorial, always the same one."""
    if port not in ports:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            ports[port] = str(taken.getsockname()[1])
    return ports[port]


if __name__ == "__main__":
    cli.run(main, Options)
