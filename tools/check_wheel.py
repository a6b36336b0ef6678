"""Try a wheel as its user does: an empty environment, an empty folder, images, one command.

python -m tools.check_wheel dist/tfpipe-0.1.0-py3-none-any.whl
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import arguments, option


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    wheel: tuple[str, ...] = arguments("WHEEL", "the wheel to try")
    count: int = option("images to draw", 120)


def main(options: Options) -> None:
    """Install the wheel, draw images, run the pipeline, and check that an export is there."""
    wheel = pathlib.Path(options.wheel[0]).resolve()
    with tempfile.TemporaryDirectory() as made:
        environment, folder = pathlib.Path(made, "venv"), pathlib.Path(made, "empty")
        folder.mkdir()
        python, command = (str(environment / "bin" / name) for name in ("python", "tfpipe"))
        uv = [sys.executable, "-m", "uv"]
        _run([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
        _run([*uv, "pip", "install", "--quiet", "--python", python, f"{wheel}[report]"])
        toy = [sys.executable, "tools/make_toy_images.py", f"--count={options.count}"]
        _run([*toy, f"--out={folder / 'toy'}"])
        flags = ["--out=pets", "--recipe=demo", "--train_flags=--epochs=2"]
        _run([command, "pipeline", "toy/train", *flags], cwd=folder)
        if not (folder / "pets" / "export" / "1" / "saved_model.pb").is_file():
            raise UserError(f"{wheel.name}: tfpipe pipeline left no export")
    terminal.say(f"{wheel.name} works in an empty environment")


def _run(command: list[str], cwd: pathlib.Path | None = None) -> None:
    terminal.say(f"$ {' '.join(command)}")
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    status = subprocess.run(command, cwd=cwd, env=given).returncode
    if status:
        raise UserError(f"that command ended with status {status}")


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
