"""Evaluate a trained classifier on records, and write metrics.json into its folder.

    tfpipe evaluate --run_dir=runs/NAME [--records=records/OTHER] [--split=test]
    tfpipe evaluate --run_dir=runs/NAME --against=runs/OTHER

The folder is that of a run, a cross-validation (--folds) or an ensemble. The arithmetic is float32,
as in the exported model, in whatever precision the run was trained. All metrics are of calibrated
probabilities, as exported; the log loss is also shown before calibration and before clipping.

The images are those of the test split, which no training uses. Records without one are evaluated on
the validation split. That split chose the best epoch, the calibration and an ensemble's weights, so
its metrics are a little too good. On any records the command says how many of the images the run
was trained or validated on.

For two classes ROC AUC, average precision, Brier score and calibration error are of the probability
of the second class. For more, ROC AUC and average precision are the mean over the classes, each
against the rest; the Brier score is the sum over the classes; the calibration error is of the most
probable class. Images that may have several classes have other metrics: F1, Hamming loss and the
share with all classes right are of the answers by the run's thresholds. A 95 % interval is an
estimate of the value for all images like these: of 100 such samples of images, about 95 give an
interval that holds it. Accuracy, recall and precision have Wilson's intervals, balanced accuracy is
joined from them; the bootstrap gives the rest. Slices are small, dark or narrow images, and those
of each folder.

The records may lack classes of the run; labels are matched by name. A class without images has no
metrics, and a warning says so, or that the classes have other shares than in training.

A run that was trained with --reject_rate also tells the share of images that it calls none of the
classes. --other_images=FOLDER has images that show none: their share, and the area under the ROC
curve of the score between them and the evaluated images.

--against evaluates another run on the same images, resampled together. This shows differences that
the intervals of the two runs would hide.

Most runs of a cross-validation were trained on any given image. So without --records and --split
its out-of-fold predictions are evaluated: each image is classified by the run that was not trained
on it, with a calibration fitted to the others. Ensembles with such a member are evaluated alike.
"""

import dataclasses
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.runs import predictions_file

if TYPE_CHECKING:
    import numpy as np

    from tfpipe.records.subset import Subset
    from tfpipe.runs.loaded_run import LoadedRun
    from tfpipe.runs.run_evaluation import Evaluation

# Raised when a field is renamed or changes its meaning.
SCHEMA_VERSION = 1

_ROUNDS = (100, 100_000)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train, or of an ensemble")
    records: str = option("records to evaluate on; empty for the run's", "")
    split: str = option(
        "split of the records, or all; empty for test, or without one the run's validation split",
        "",
    )
    tta: str = option("test-time views, or none; empty for the run's", "")
    against: str = option("folder of another run, to be compared on the same images", "")
    predictions: str = option("CSV file to write the predictions to", "")
    out: str = option("the file to write; empty for metrics.json in the run's folder", "")
    rounds: int = option("samples of the bootstrap; a p-value is at least 2 / (rounds + 1)", 1000)
    threshold: str = option(
        "where images may have several classes, the least probability of each to be answered: a"
        " number for all, or NAME=NUMBER,NAME=NUMBER for some; empty for the run's",
        "",
    )
    other_images: str = option(
        "images that show none of the classes, a source as of tfpipe.predict, for a run that was"
        " trained with --reject_rate",
        "",
    )


def main(options: Options) -> None:
    """Run the command; see the module's docstring."""
    least, most = _ROUNDS
    if not least <= options.rounds <= most:
        raise UserError(f"--rounds={options.rounds}: give {least} to {most:,}", status=2)

    import tfpipe
    from tfpipe.evaluation import compare
    from tfpipe.evaluation import result_tables as tables
    from tfpipe.runs import loaded_run

    run = loaded_run.load(options.run_dir)
    _check_predictions(options.predictions, run)
    path = _out(options.out, run.folder / loaded_run.METRICS)
    other = loaded_run.load(options.against) if options.against else None
    part = _part(options, run)
    _thresholds(options.threshold, run)  # raises UserError, before the images are classified
    if other is not None:
        _check_against(options, run, other, part)
    others = _others(options, run)
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
    measured = described | found.metrics(options.rounds)
    for warning in measured["warnings"]:
        terminal.warn(warning)
    tables.show(found.what, measured)
    _show_unfamiliar(measured, found, others, options.other_images)
    if compared:
        tables.show_against(compared, options.run_dir, options.against, measured["labels"])
        terminal.result(compare.sentence(compared, options.run_dir, options.against))
    if options.predictions:
        predictions_file.write(options.predictions, run.classes, found.found)
        terminal.say(f"the predictions are in {options.predictions}")
    _write(path, measured | ({"against": compared} if compared else {}), asked=bool(options.out))
    name = pathlib.Path(options.run_dir).name
    flags = shlex.join([f"--run_dir={options.run_dir}", f"--export_dir=export/{name}"])
    terminal.say(f"next: tfpipe export {flags}")


def _thresholds(text: str, run: "LoadedRun") -> tuple[float, ...] | None:
    """Return the thresholds that the option names; None for the run's own."""
    if not text:
        return None
    from tfpipe.evaluation import threshold

    if run.thresholds is None:
        raise UserError(
            f"--threshold={text} is for images that may have several classes, and those of"
            f" {run.folder} have exactly one: the metrics are of the most probable one",
            status=2,
        )
    rule = threshold.parse(text)
    if rule.method not in (threshold.GIVEN, threshold.BY_CLASS):
        raise UserError(
            f"--threshold={text}: give a number, or NAME=NUMBER for some classes; f1 is the run's",
            status=2,
        )
    return threshold.given(rule, run.classes, run.thresholds)


def _others(options: Options, run: "LoadedRun") -> "np.ndarray | None":
    """Return the scores of --other_images; None without."""
    if not options.other_images:
        return None
    from tfpipe import sources
    from tfpipe.predictions import unlabelled
    from tfpipe.predictions.run_classifier import RunClassifier

    if run.familiarity() is None:
        raise UserError(
            f"--other_images={options.other_images}: {options.run_dir} has no score for images of"
            " other kinds: train a single run with --reject_rate, as 0.01"
        )
    classifier = RunClassifier(None, options.run_dir, options.tta)
    return unlabelled.unfamiliar(classifier, sources.open_source(options.other_images))


def _show_unfamiliar(
    measured: dict[str, Any], found: "Evaluation", others: "np.ndarray | None", folder: str
) -> None:
    """Add --other_images to the metrics, and print how many images are unfamiliar."""
    from tfpipe.evaluation import unfamiliar

    if "unfamiliar" not in measured:
        return
    names = {"images": found.what}
    if others is not None:
        names["others"] = folder
        rate = measured["unfamiliar"]["reject_rate"]
        measured["unfamiliar"] = unfamiliar.measure(found.found["unfamiliar"], rate, others)
    unfamiliar.table(measured["unfamiliar"], names).show()
    if others is not None:
        area = measured["unfamiliar"]["roc_auc"]
        terminal.result(f"ROC AUC of the score against {folder}: {area:.4f}")


def _out(given: str, default: pathlib.Path) -> pathlib.Path:
    """Return the file to write; raise UserError if it cannot be one."""
    path = pathlib.Path(given) if given else default
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"`out={given}`: give a file in a folder that exists")
    return path


def _write(path: pathlib.Path, measured: dict[str, Any], *, asked: bool) -> None:
    """Write the metrics; only warn if the run's folder, which nobody named, is read-only."""
    try:
        storage.write_json(path, measured)
    except UserError as error:
        if asked:
            raise
        terminal.warn(
            f"{error}: the metrics above are in no file; --out=PATH writes them elsewhere"
        )
        return
    terminal.say(f"written to {path}")


def _part(options: Options, run: "LoadedRun") -> "Subset | None":
    """Return the records to evaluate on, or None for out-of-fold predictions."""
    from tfpipe.runs import run_evaluation

    if not run.out_of_fold or options.records or options.split:
        return run_evaluation.part_of(run, options.records, options.split)
    if options.tta:
        raise UserError(
            f"--tta={options.tta}: the out-of-fold predictions of {run.folder} have the run's own"
            " views: give --split or --records too"
        )
    terminal.say(
        f"{run.folder}: each image is classified by the runs that were not trained on it; give"
        " --split or --records to classify by all of them together"
    )
    return None


def _evaluated(run: "LoadedRun", part: "Subset | None", options: Options) -> "Evaluation":
    from tfpipe.runs import run_evaluation

    found = (
        run_evaluation.out_of_fold(run)
        if part is None
        else run_evaluation.on_part(run, part, options.tta)
    )
    return dataclasses.replace(found, thresholds=_thresholds(options.threshold, run))


def _check_against(
    options: Options, run: "LoadedRun", other: "LoadedRun", part: "Subset | None"
) -> None:
    """Raise UserError if a run cannot be compared; warn if it may be trained on the images."""
    if other.classes != run.classes:
        raise UserError(
            f"--against={options.against} has the classes {', '.join(other.classes)}, but"
            f" {run.folder} {', '.join(run.classes)}: compare runs of the same"
        )
    if other.labels != run.labels:
        raise UserError(
            f"--against={options.against}: only images of one of the two runs may have several"
            " classes: compare runs of the same"
        )
    if options.records or options.split:
        return
    if run.out_of_fold != other.out_of_fold:
        folder = run.folder if run.out_of_fold else other.folder
        raise UserError(
            f"--against={options.against}: only {folder} is a cross-validation or contains one:"
            " give --records or --split with images that neither was trained on"
        )
    if part is not None and not _would_take(other, part):
        terminal.warn(
            f"{other.folder} was not validated on {part.name} of {part.manifest.folder}, so it may"
            " have been trained on these images: its metrics may be too good"
        )


def _would_take(run: "LoadedRun", part: "Subset") -> bool:
    """Return whether a run would be evaluated on exactly these records by default."""
    from tfpipe.records import manifest as manifests
    from tfpipe.runs import run_evaluation

    try:
        own = manifests.load(run.records)
        default = run_evaluation.default_part(run, own)
        return (own.fingerprint, default.name) == (part.manifest.fingerprint, part.name)
    except UserError:  # its records are gone
        return False


def _check_predictions(path: str, run: "LoadedRun") -> None:
    """Raise UserError if --predictions cannot be written."""
    if not path:
        return
    file = pathlib.Path(path)
    if not file.parent.is_dir() or file.is_dir():
        raise UserError(f"--predictions={path}: give a file in a folder that exists")
    if file.resolve() == run.predictions_file.resolve():
        raise UserError(f"--predictions={path} is the run's own file: name another file")


if __name__ == "__main__":
    cli.run(main, Options)
