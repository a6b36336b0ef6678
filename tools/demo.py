"""Show what a small model answers, then run the whole path on drawn images in a few minutes.

    make demo

The first answers come within a minute, from a model that is part of the repository: a small CNN,
trained on 4,000 cats and dogs that tools/make_toy_images.py drew. It knows no photographs. Then
`tfpipe pipeline` makes such a model: it builds, trains, evaluates, reports and exports. At last a
server answers. Every command is printed before it runs. A second start skips finished steps.
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys

import tfpipe
from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

SHIPPED = pathlib.Path("docs/assets/demo-run")
PICTURES = pathlib.Path("serving/web/samples")
OUT = pathlib.Path("runs/demo")
IMAGES = OUT / "images"
EXPORT = pathlib.Path("export/demo")

NEXT = f"""\

The report is {OUT / "run" / "report.html"}. Try the model in the browser:
  make web EXPORT={EXPORT}
The same with your own images, a folder for each class:
  source .venv/bin/activate
  tfpipe pipeline FOLDER --out=FOLDER-model"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    count: int = option("toy images to draw", 600)


def main(options: Options) -> None:
    """Show the shipped model's answers, and run every step that is not finished."""
    terminal.say(f"the model in {SHIPPED} classifies drawn animals that it has not seen:")
    for row in tfpipe.load_run(SHIPPED).predict(sorted(PICTURES.glob("*.jpg"))):
        terminal.result(f"  {row.name}  {row.label} {row.probability:.1%}")
    run("tools/make_toy_images.py", f"--out={IMAGES}", f"--count={options.count}")
    folders = f"--out={OUT}", f"--export_dir={EXPORT}"
    run("-m", "tfpipe", "pipeline", str(IMAGES / "train"), *folders, "--recipe=demo")
    ask()
    for line in NEXT.splitlines():
        terminal.say(line)


def run(*arguments: str) -> None:
    """Print and run a Python command; raise UserError if it fails."""
    _show(arguments)
    status = subprocess.run([sys.executable, *arguments]).returncode
    if status:
        raise UserError(f"that command ended with status {status}; to continue, run the demo again")


def ask() -> None:
    """Start the embedded server, ask it about the pictures, and stop it."""
    command = ["-m", "tfpipe", "serve", "--model_name=demo", f"--model_base_path={EXPORT}"]
    command.append("--port=0")  # any free port
    _show(command)
    server = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    try:
        # TensorFlow may log lines of its own first.
        ready = next((line for line in server.stderr if line.startswith("serving ")), "")
        if not ready:
            raise UserError("the server did not start")
        terminal.say(ready.strip())
        address = ready.split()[-1]
        run("-m", "tfpipe", "client", f"--server={address}", "--model_name=demo", str(PICTURES))
    finally:
        server.terminate()
        server.wait()
    terminal.say("the server is stopped")


def _show(arguments: list[str] | tuple[str, ...]) -> None:
    terminal.say("")
    terminal.say(f"$ {shlex.join(['python', *arguments]).replace('python -m tfpipe ', 'tfpipe ')}")


if __name__ == "__main__":
    cli.run(main, Options)
