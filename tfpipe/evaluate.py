"""Measures a trained classifier on records and writes metrics.json into its folder.

    python -m tfpipe.evaluate --run_dir=runs/NAME [--records=records/OTHER] [--split=val]
    python -m tfpipe.evaluate --run_dir=runs/NAME --against=runs/OTHER

The folder is a run's, a cross-validation's (--folds) or an ensemble's. Everything but the split
follows from it. The arithmetic is float32, as in the exported model, whatever precision the
training used. All measures are of the answers as exported; the log loss is shown before calibration
and before clipping too. On the split that the run was calibrated on, its validation split, a
calibrated loss is a little lower than elsewhere; so is that of an ensemble on the split that it was
fitted to.

Of two classes ROC AUC, average precision, Brier score and calibration error are of the probability
of the second one. Of more, ROC AUC and average precision are the mean over the classes, each
against the rest; the Brier score is the sum over the classes; the calibration error is of the most
probable class. Intervals are of the bootstrap: where the measure would lie, 95 % of the time, for
other images like these. Slices tell small, dark or narrow images, and those of each folder, apart.

--against measures another run on the same images, drawn together, so that differences show which
the intervals of either run alone would hide.

Every image of a cross-validation was trained on by most of its runs. Without --records and --split
its own out-of-fold predictions are measured, in which each image is classified by the run that has
not seen it, and calibrated by the others; so are those of an ensemble that has such a member.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

if TYPE_CHECKING:
    from tfpipe.records.subset import Subset
    from tfpipe.runs.evaluation import Evaluation
    from tfpipe.runs.trained import Trained

# Raised when a field is renamed or changes its meaning.
SCHEMA_VERSION = 1

_ROUNDS = (100, 100_000)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train, or of an ensemble")
    records: str = option("records to evaluate on; empty for those of the run", "")
    split: str = option("split of the records, or all; empty for the run's validation split", "")
    tta: str = option("test-time views, or none; empty for those of the run", "")
    against: str = option("folder of another run, to be compared on the same images", "")
    predictions: str = option("CSV file to write the answer for each image to", "")
    rounds: int = option("samples of the bootstrap; a p-value is at least 2 / (rounds + 1)", 1000)


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    least, most = _ROUNDS
    if not least <= options.rounds <= most:
        raise UserError(f"--rounds={options.rounds}: give {least} to {most:,}", status=2)

    import tfpipe
    from tfpipe.evaluation import compare, tables
    from tfpipe.runs import finish, trained

    run = trained.load(options.run_dir)
    _check_predictions(options.predictions, run)
    other = trained.load(options.against) if options.against else None
    part = _part(options, run)
    if other is not None:
        _check_against(options, run, other, part)
    found = _evaluated(run, part, options)
    described = {
        "schema_version": SCHEMA_VERSION,
        "tfpipe_version": tfpipe.__version__,
        "run_dir": options.run_dir,
        "tta": options.tta or run.tta,
        "rounds": options.rounds,
    }
    compared = {}
    if other is not None:
        second = _evaluated(other, part, options)
        compared = {"run_dir": options.against, "tta": options.tta or other.tta}
        compared |= found.against(second, options.rounds)
    measured = described | found.measured(options.rounds)
    path = run.folder / trained.METRICS
    storage.write_json(path, measured | ({"against": compared} if compared else {}))
    tables.show(found.what, measured)
    if compared:
        tables.show_against(compared, options.run_dir, options.against)
        terminal.result(compare.sentence(compared, options.run_dir, options.against))
    if options.predictions:
        finish.write_predictions(options.predictions, run.classes, found.found)
        terminal.say(f"the answer for each image is in {options.predictions}")
    terminal.say(f"written to {path}")


def _part(options: Options, run: "Trained") -> "Subset | None":
    """Returns the records to measure on, or None for out-of-fold predictions."""
    from tfpipe.runs import evaluation

    if not run.out_of_fold or options.records or options.split:
        return evaluation.part_of(run, options.records, options.split)
    if options.tta:
        raise UserError(
            f"--tta={options.tta}: the out-of-fold predictions of {run.folder} are of its own"
            " views: give --split or --records too"
        )
    terminal.say(
        f"{run.folder}: each image as classified by the runs that have not seen it; --split or"
        " --records classifies by all of them together"
    )
    return None


def _evaluated(run: "Trained", part: "Subset | None", options: Options) -> "Evaluation":
    from tfpipe.runs import evaluation

    return (
        evaluation.out_of_fold(run) if part is None else evaluation.on_part(run, part, options.tta)
    )


def _check_against(
    options: Options, run: "Trained", other: "Trained", part: "Subset | None"
) -> None:
    """Raises UserError if a run cannot be compared, and warns if it may know the images."""
    if other.classes != run.classes:
        raise UserError(
            f"--against={options.against} has the classes {', '.join(other.classes)}, but"
            f" {run.folder} {', '.join(run.classes)}: compare runs of the same"
        )
    if options.records or options.split:
        return
    if run.out_of_fold != other.out_of_fold:
        folder = run.folder if run.out_of_fold else other.folder
        raise UserError(
            f"--against={options.against}: of the two only {folder} is a cross-validation, or has"
            " one in it, whose runs have seen most images: give --records or --split, of images"
            " that neither was trained on"
        )
    if part is not None and not _validated_on(other, part):
        terminal.warn(
            f"{other.folder} was not validated on {part.name} of {part.manifest.folder}, so it may"
            " have been trained on these images: its measures may be too good"
        )


def _validated_on(run: "Trained", part: "Subset") -> bool:
    """Returns whether a run was validated on records of just this part."""
    from tfpipe.records import manifest as manifests

    try:
        own = manifests.load(run.records)
        return (own.fingerprint, run.validation(own).name) == (part.manifest.fingerprint, part.name)
    except UserError:  # its records are gone
        return False


def _check_predictions(path: str, run: "Trained") -> None:
    """Raises UserError if --predictions cannot be written there."""
    if not path:
        return
    file = pathlib.Path(path)
    if not file.parent.is_dir() or file.is_dir():
        raise UserError(f"--predictions={path}: give a file in a folder that exists")
    if file.resolve() == run.predictions_file.resolve():
        raise UserError(
            f"--predictions={path} belongs to the run, which is calibrated by it: name another file"
        )


if __name__ == "__main__":
    cli.run(main, Options)
