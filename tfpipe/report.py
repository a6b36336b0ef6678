"""Write a report about trained classifiers: report.html in the run's folder.

    tfpipe report --run_dir=runs/NAME
    tfpipe report --run_dir=runs/a,runs/b --out=comparison.html

The page shows the result with intervals and curves, images with predictions and heat maps (the most
wrong, the least and the most certain), the training, the model and the data. It is one file and
needs no network; RUN/plots gets every plot as a PNG file. The folder is a run's, a
cross-validation's (--folds) or an ensemble's. For an unfinished training the page shows the parts
that exist. Several folders are compared in comparison.html in the first of them. The command trains
nothing and changes no other file. --out writes the page elsewhere, as for a run folder that is
read-only; then the PNG files are left out, with a warning.
"""

import dataclasses

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

_SHOWN = ("feature_maps", "filters")  # layer_plots.PLOTS, whose import takes TensorFlow
_MOST_PICTURES, _MOST_NEIGHBOURS = 48, 100_000


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folders of runs or ensembles, separated by commas")
    out: str = option("the page; empty for report.html in the folder", "")
    records: str = option("folder of the records; empty for those of each run", "")
    pictures: int = option("images in each group, such as the most wrong; 0 for no images", 8)
    neighbours: int = option(
        "training images to search for the nearest neighbours of wrong images; 0 for no search",
        1000,
    )
    show: str = option(f"plots of the model's layers, separated by commas: {', '.join(_SHOWN)}", "")


def main(options: Options) -> None:
    """Run the command; see the module's docstring."""
    shown = tuple(part.strip() for part in options.show.split(",") if part.strip())
    unknown = next((part for part in shown if part not in _SHOWN), None)
    if unknown is not None:
        raise UserError(f"--show={options.show}: {unknown!r} is none of {', '.join(_SHOWN)}")
    for name, most in (("pictures", _MOST_PICTURES), ("neighbours", _MOST_NEIGHBOURS)):
        if not 0 <= getattr(options, name) <= most:
            raise UserError(f"--{name}={getattr(options, name)}: give 0 to {most:,}")

    from tfpipe.reporting import run_report
    from tfpipe.reporting.chapter import ReportOptions

    folders = [folder.strip() for folder in options.run_dir.split(",")]
    chosen = ReportOptions(options.pictures, options.neighbours, shown)
    path = run_report.write(folders, options.out, options.records, chosen)
    terminal.say(f"written to {path} ({storage.size(path) / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli.run(main, Options)
