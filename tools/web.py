"""A model in the browser, with one command: starts the server and the web page, and ends both.

    make web                                  the demo's model, which is made first if need be
    make web EXPORT=export/mine SAMPLES=photos

Ctrl-C ends them. To look from a phone in the same network: make web HOST=0.0.0.0, and the address
of this machine.
"""

import dataclasses
import pathlib
import queue
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
    """The flags of this command."""

    export: str = option("folder of an exported model, with numbered versions", str(demo.EXPORT))
    host: str = option("address that the page listens at; 0.0.0.0 for all", "127.0.0.1")
    port: int = option("port of the page; 0 takes a free one", 8080)
    samples: str = option("folder of pictures to try; empty for drawn ones", "")


def main(options: Options) -> None:
    """Serves the model and its page until a signal comes or one of them ends."""
    export = pathlib.Path(options.export)
    if export == demo.EXPORT and not list(export.glob("*/saved_model.pb")):
        terminal.say("there is no demo model yet; making it takes a few minutes")
        demo.run("tools/demo.py")
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
        terminal.say("Ctrl-C ends both")
        while not signals.wait(_LOOK_S):
            if any(each.poll() is not None for each in started):
                raise UserError("one of the two has ended by itself")
    finally:
        for each in reversed(started):
            each.terminate()
        for each in started:
            each.wait()


def _start(module: str, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", module, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="backslashreplace")


def _ready(process: subprocess.Popen, start: str, signals: Signals) -> str:
    """Passes on what a command says, and returns the line that begins so.

    Raises:
        UserError: the command ends before.
        KeyboardInterrupt: a signal comes before.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def pass_on() -> None:
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            lines.put(line)
        lines.put("")

    threading.Thread(target=pass_on, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            if signals.wait(0):
                raise KeyboardInterrupt from None
            continue
        if not line:
            raise UserError("that did not start")
        if line.startswith(start):
            return line.strip()


if __name__ == "__main__":
    cli.run(main, Options)
