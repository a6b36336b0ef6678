"""Runs the whole path on toy images in a few minutes: draw, build, train, evaluate, export, ask.

    make demo

Prints every command before running it, so that you can run it on your own images. A second start
skips finished steps.
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys

from tfpipe import pipeline
from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

IMAGES = pathlib.Path("records/demo-images")
RECORDS = pathlib.Path("records/demo")
RUN = pathlib.Path("runs/demo")
EXPORT = pathlib.Path("export/demo")
ASKED = ("test1/1.jpg", "test1/2.jpg", "test1/3.jpg")

SUMMARY = f"""\

The results:
  {IMAGES}/    the toy images
  {RECORDS}/           their TFRecords and manifest.json
  {RUN}/              configuration, best weights, log.csv, metrics.json, TensorBoard
  {EXPORT}/            the SavedModel, by version, for TensorFlow Serving

Next, with your own train.zip (cat.0.jpg, dog.0.jpg, ... or cat/0.jpg, dog/0.jpg, ...):
  source .venv/bin/activate
  python -m tfpipe.build_records --source=train.zip --out=records/mine
  python -m tfpipe.train --flagfile=configs/mobilenet-frozen.flags --records=records/mine \\
      --run_dir=runs/mine
  python -m tfpipe.evaluate --run_dir=runs/mine
  python -m tfpipe.export --run_dir=runs/mine --export_dir=export/mine
  python -m serving.server --model_name=mine --model_base_path=export/mine --port=8500"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    count: int = option("toy images to draw", 600)


def main(options: Options) -> None:
    """Run every step that is not finished."""
    run("tools/make_toy_images.py", f"--out={IMAGES}", f"--count={options.count}")
    run("-m", "tfpipe.build_records", f"--source={IMAGES / 'train'}", f"--out={RECORDS}")
    run(
        "-m", "tfpipe.train", "--flagfile=configs/demo.flags", f"--records={RECORDS}",
        f"--run_dir={RUN}",
    )  # fmt: skip
    run("-m", "tfpipe.evaluate", f"--run_dir={RUN}")
    if not pipeline.is_exported(RUN, EXPORT):
        run("-m", "tfpipe.export", f"--run_dir={RUN}", f"--export_dir={EXPORT}")
    ask()
    print(SUMMARY)


def run(*arguments: str) -> None:
    """Print and run a Python command; raise UserError if it fails."""
    _show(arguments)
    status = subprocess.run([sys.executable, *arguments]).returncode
    if status:
        raise UserError(f"that command ended with status {status}; to continue, run the demo again")


def ask() -> None:
    """Start the embedded server, ask it about three images, and stop it."""
    command = ["-m", "serving.server", "--model_name=demo", f"--model_base_path={EXPORT}"]
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
        images = [str(IMAGES / name) for name in ASKED]
        run("-m", "serving.client", f"--server={address}", "--model_name=demo", *images)
    finally:
        server.terminate()
        server.wait()
    terminal.say("the server is stopped")


def _show(arguments: list[str] | tuple[str, ...]) -> None:
    terminal.say("")
    terminal.say(f"$ python {shlex.join(arguments)}")


if __name__ == "__main__":
    cli.run(main, Options)
