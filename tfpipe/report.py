"""Writes one page about a trained classifier: report.html in its folder.

    python -m tfpipe.report --run_dir=runs/NAME
    python -m tfpipe.report --run_dir=runs/a,runs/b --out=comparison.html

The page has the result with its intervals and curves, the most wrong, the least certain and the
most certain images with what they were judged by, the training, the model and the data. It is one
file that needs nothing else; every plot is also a PNG file in RUN/plots. The folder is a run's, a
cross-validation's (--folds) or an ensemble's; a training that goes on or was interrupted gives what
there is of it. Several folders are compared, and the page is then comparison.html in the first of
them. Nothing is trained, and nothing else is written.
"""

import dataclasses

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

_SHOWN = ("feature_maps", "filters")  # tfpipe.reporting.layers, which needs TensorFlow
_MOST_PICTURES, _MOST_NEIGHBOURS = 48, 100_000


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folders of runs or ensembles, separated by commas")
    out: str = option("the page; empty for report.html in the folder", "")
    records: str = option("folder of the records; empty for those of each run", "")
    pictures: int = option("images in each group, as the most wrong; 0 for no pictures", 8)
    neighbours: int = option(
        "training images to look for the nearest neighbours of wrong images among; 0 for none",
        1000,
    )
    show: str = option(
        f"what the layers of the model see, separated by commas: {', '.join(_SHOWN)}", ""
    )


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    shown = tuple(part.strip() for part in options.show.split(",") if part.strip())
    unknown = next((part for part in shown if part not in _SHOWN), None)
    if unknown is not None:
        raise UserError(f"--show={options.show}: {unknown!r} is none of {', '.join(_SHOWN)}")
    for name, most in (("pictures", _MOST_PICTURES), ("neighbours", _MOST_NEIGHBOURS)):
        if not 0 <= getattr(options, name) <= most:
            raise UserError(f"--{name}={getattr(options, name)}: give 0 to {most:,}")

    from tfpipe.reporting import page
    from tfpipe.reporting.chapter import Choice

    folders = [folder.strip() for folder in options.run_dir.split(",")]
    choice = Choice(options.pictures, options.neighbours, shown)
    path = page.make(folders, options.out, options.records, choice)
    terminal.say(f"written to {path} ({storage.size(path) / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli.run(main, Options)
