"""Exports a trained classifier as the next version of a served model.

    python -m tfpipe.export --run_dir=runs/NAME --export_dir=export/NAME

Writes export/NAME/<version>/, a float32 SavedModel with all preprocessing, test-time views and
calibration in its signatures; the folder appears whole or not at all, so a server that watches
export/NAME may be running.
"""

import dataclasses
import pathlib

from tfpipe import cli, storage, terminal
from tfpipe.errors import UserError
from tfpipe.options import option


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train, or of an ensemble")
    export_dir: str = option("folder of the model's versions, as export/NAME")
    version: int = option("version to write, 0 for one above the highest there", 0)


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    from tfpipe.fit import trained
    from tfpipe.model import signatures

    folder = pathlib.Path(options.export_dir)
    version = _version(folder, options.version)
    run = trained.load(options.run_dir)
    context = signatures.Context(run.restore(), run.classes)
    with storage.atomic_folder(folder / str(version)) as work:
        labels = work / "labels.txt"
        labels.write_text("".join(f"{name}\n" for name in run.classes), encoding="utf-8")
        signatures.save(context, str(work), str(labels))
        labels.unlink()  # its copy among the assets stays
    terminal.say(f"exported {options.run_dir} to {folder / str(version)}")
    terminal.say(
        f"next: python -m serving.server --model_name={folder.name} --model_base_path={folder}"
        " --port=8500"
    )


def _version(folder: pathlib.Path, asked: int) -> int:
    if asked < 0:
        raise UserError(f"--version={asked}: give a number above 0, or 0 for the next one")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--export_dir={folder} is a file: give a folder")
    there = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    if asked in there:
        raise UserError(f"{folder / str(asked)} exists already: give another --version, or 0")
    return asked or max(there, default=0) + 1


if __name__ == "__main__":
    cli.run(main, Options)
