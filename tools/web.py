"""Serves a model and its web page with one command, and stops both together.

    make web                                  the demo's model; trains it first if it is missing
    make web EXPORT=export/mine SAMPLES=photos

Ctrl-C stops both. For a phone in the same network: make web HOST=0.0.0.0, then open the address of
this machine.
"""

import dataclasses
import pathlib
import subprocess
import sys
import threading

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.core.signals import Signals
from tools import demo

_LOOK_S = 0.2


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    export: str = option("folder of an exported model with numbered versions", str(demo.EXPORT))
    host: str = option("address of the page; 0.0.0.0 for all interfaces", "127.0.0.1")
    port: int = option("port of the page; 0 for any free port", 8080)
    samples: str = option("folder of sample pictures; empty for the built-in ones", "")


def main(options: Options) -> None:
    """Serve the model and its page until a signal comes or one of them ends."""
    export = pathlib.Path(options.export)
    if export == demo.EXPORT and not list(export.glob("*/saved_model.pb")):
        terminal.say("there is no demo model yet; training it takes a few minutes")
        demo.run("tools/demo.py")
    if not list(export.glob("*/saved_model.pb")):  # the server would wait for one
        raise UserError(
            f"--export={export} holds no version: a SavedModel lies in a numbered folder, such as"
            f" {export / '1' / 'saved_model.pb'}"
        )
    signals = Signals()
    name = export.resolve().name
    started: list[subprocess.Popen] = []
    try:
        started.append(
            _start("serving.server", f"--model_name={name}", f"--model_base_path={export}",
                   "--port=0")
        )  # fmt: skip
        address = _ready(started[0], "serving ", signals).split()[-1]
        started.append(
            _start("serving.webapp", f"--server={address}", f"--model_name={name}",
                   f"--host={options.host}", f"--port={options.port}",
                   f"--samples={options.samples}")
        )  # fmt: skip
        _ready(started[1], "the page ", signals)
        terminal.say("Ctrl-C stops both")
        while not signals.wait(_LOOK_S):
            if any(each.poll() is not None for each in started):
                raise UserError("the server or the page has ended")
    finally:
        for each in reversed(started):
            each.terminate()
        for each in started:
            each.wait()


def _start(module: str, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", module, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="backslashreplace")


def _ready(process: subprocess.Popen, start: str, signals: Signals) -> str:
    """Forward the output of a command, and return the first line with this start.

    Raises:
        UserError: the command ended before it.
        KeyboardInterrupt: a signal came before it.
    """
    found: list[str] = []

    def forward() -> None:
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            if line.startswith(start):
                found.append(line.strip())

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    while not found:
        if process.poll() is not None:
            thread.join(5)  # until its last lines are shown
            raise UserError("this command did not start")
        if signals.wait(_LOOK_S):
            raise KeyboardInterrupt
    return found[0]


if __name__ == "__main__":
    cli.run(main, Options)
