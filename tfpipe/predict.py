"""Predict the classes of unlabelled images: a CSV as Kaggle takes it, JSONL or Parquet.

    tfpipe predict --run_dir=runs/NAME --source=test1.zip --out=submission.csv
    tfpipe predict --export_dir=export/NAME --source=photos --out=photos.jsonl
    tfpipe predict --server=HOST:8500 --model_name=NAME --source=photos --out=all.parquet

For two classes the CSV has `id,label`, where label is P(second class). For more it has `id` and a
column of probabilities for each class. All are calibrated and clipped as the run is. The id is the
file's name without its ending; ids that are numbers are sorted as numbers, before all others. With
several --source, the name of a file in other formats is its path. JSONL, Parquet, and a CSV with
--columns=all have a row for each image in the same order: id, name, label (the class, by
--threshold; where images may have several, labels), probability_CLASS for each class, error, and
with --explain heat_map, the path of a PNG that shows where in the image the class is seen. Of a
model that was trained with --reject_rate they have unfamiliar too, a score above 1 for an image
that shows none of the classes.

An image that cannot be read gets the share of each class in the training records and no label, is
named in OUT.rejects.csv, and makes the exit status 3. A file that is no image and not named like
one is only listed there. OUT.summary.json has the counts, the classifier and the threshold.

Results are kept beside OUT until all is done: after a kill the same command resumes, to the same
bytes. --runner=beam spreads the work over many machines.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import tfpipe
from tfpipe import sources
from tfpipe.core import cli, remote, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.evaluation import threshold as thresholds
from tfpipe.predictions import formats, order, output
from tfpipe.predictions import server_classifier as server
from tfpipe.runs import predictions_file

if TYPE_CHECKING:
    import numpy as np

# The exit status when everything was written but some image could not be read.
REJECTS = 3

KAGGLE, ALL = "kaggle", "all"

# More classes are counted in the summary only.
_MOST_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of this command, but for those of a server."""

    source: tuple[str, ...] = option(
        "images: a folder, a zip or tar archive, a list (.csv, .tsv, .txt, .json or .jsonl), or"
        " TFRecords; or a URL of one; several add up"
    )
    out: str = option("the file to write: .csv, .jsonl or .parquet")
    run_dir: str = option(
        "folder of the run, as given to tfpipe.train, or of an ensemble",
        "",
        group="Model",
        common=True,
    )
    export_dir: str = option(
        "in place of a run, a folder as given to tfpipe.export, whose highest version is taken, or"
        " one version",
        "",
        common=True,
    )
    format: str = option(
        "auto goes by the ending of --out", "auto", ("auto", *formats.formats), group="Output"
    )
    columns: str = option(
        "of a CSV; the other formats have all", KAGGLE, (KAGGLE, ALL), common=True
    )
    clip: str = option(
        "bounds that probabilities are clipped to, LOW,HIGH: they limit what one confident mistake"
        " costs in log loss; 0,1 for none, empty for the model's own, within which an export and a"
        " server stay in any case",
        "",
        group="Probabilities",
    )
    tta: str = option("test-time views, or none; empty for those of the run", "", common=True)
    threshold: str = option(
        "of two classes, the probability of the second from which an image is labelled with it: a"
        " number, f1 (the best F1 score on the run's validation images) or cost:FP,FN (the lowest"
        " cost on them, if a false second and a missed second cost that much); empty for the more"
        " probable class. Where images may have several classes, that of each class; empty for the"
        " thresholds of the model, and NAME=NUMBER,NAME=NUMBER for other ones of some classes",
        "",
        common=True,
    )
    explain: str = option(
        "a new folder for heat maps; empty for none", "", group="Heat maps", common=True
    )
    explain_limit: int = option(
        "how many images get a heat map, the first ones of the output; 0 for all", 100, minimum=0
    )
    runner: str = option(
        "what runs the work: local (this process), or beam (Apache Beam, also on many machines)",
        "local",
        ("local", "beam"),
        group="Work",
    )
    beam_args: str = option(
        "flags of Beam in one string, as in --beam_args='--runner=FlinkRunner --parallelism=64';"
        " empty for --workers processes here",
        "",
    )
    workers: int = option(
        "processes that classify; 0 for one on each CPU core", 0, minimum=0, common=True
    )


@dataclasses.dataclass(frozen=True)
class Options(server.Options, sources.Options, _Options):
    """The options of this command."""


def main(options: Options) -> int:
    """Run the command; return its exit status."""
    bounds = _bounds(options.clip)
    rule = thresholds.parse(options.threshold) if options.threshold else None
    _check(options, rule)
    out = remote.to_path(options.out)
    form = formats.choose(options.format, out.name)
    for_kaggle = form == "csv" and options.columns == KAGGLE
    run_chunks = _runner(options)

    from tfpipe.building.work import open_work
    from tfpipe.predictions.prediction import Prediction
    from tfpipe.sources.member import is_image_name

    classifier = _classifier(options, bounds)
    _ = classifier.identity  # is it there at all?
    if options.run_dir:
        from tfpipe.runs import loaded_run

        loaded_run.warn_if_rebuilt(classifier.run)
    threshold = rule and not classifier.many and _threshold(rule, classifier)
    by_class = _class_thresholds(rule, classifier) if classifier.many else None
    source = sources.join(sources.open_sources(options.source, options))
    prediction = Prediction(source, classifier, options.explain, options.explain_limit)
    if for_kaggle:
        order.check_unique(filter(is_image_name, prediction.names))
    with open_work(out, prediction.key(), "prediction") as work:
        predictions = prediction.run(work, run_chunks, by_class if rule else None)
        if for_kaggle:
            order.check_unique(predictions.names)
        if threshold:
            predictions = dataclasses.replace(predictions, threshold=threshold.value)
        table = predictions.kaggle() if for_kaggle else predictions.all()
        rejects = [(name, *why) for name, why in predictions.rejects.items()]
        rejects += predictions.skipped
        summary = _summary(options, classifier, predictions, threshold)
        if by_class:
            summary["threshold"] = dict(zip(classifier.classes, by_class, strict=True))
        output.write(work, out, formats.formats[form], table, rejects, summary)
    _report(predictions, threshold, out)
    return _judge(prediction, predictions, out)


def _check(options: Options, rule: thresholds.Rule | None) -> None:
    """Check what flags alone can tell."""
    models = {name: getattr(options, name) for name in ("run_dir", "export_dir", "server")}
    given = [name for name, value in models.items() if value]
    if len(given) != 1:
        found = " and ".join(f"--{name}={models[name]}" for name in given) or "none of them"
        raise UserError(
            f"--run_dir, --export_dir or --server says what classifies; there is {found}: give one",
            status=2,
        )
    server.check(options)
    if not options.run_dir and options.tta:
        raise UserError(
            f"--tta={options.tta} is for --run_dir: an exported model has its views inside",
            status=2,
        )
    if rule and rule.method != thresholds.GIVEN and (not options.run_dir or options.tta):
        raise UserError(
            f"--threshold={options.threshold} is chosen by the validation images of a run, as its"
            " own views classify them: give --run_dir without --tta, or the number",
            status=2,
        )
    out = remote.to_path(options.out)
    if not remote.is_remote(out) and (not out.parent.is_dir() or out.is_dir()):
        raise UserError(f"--out={out}: give a file in a folder that exists")


def _runner(options: Options) -> Callable:
    """Return what classifies chunks; see `prediction.Runner`."""
    if options.runner == "local":
        if options.beam_args:
            raise UserError("--beam_args is for --runner=beam only: give both, or none", status=2)
        from tfpipe.predictions import chunk

        return chunk.predict
    from tfpipe.building import beam  # here, because Beam takes seconds to start

    flags = beam.parse(options.beam_args, options.workers)

    def run_there(job, chunks, advance) -> None:
        from tfpipe.predictions import chunk

        for done, _ in beam.BeamRunner(job, flags).run(chunk.predict_chunk, chunks):
            advance(len(done.names))

    return run_there


def _classifier(options: Options, bounds: tuple[float, float] | None):
    if options.server:
        return server.connect(options, bounds)
    if options.export_dir:
        from tfpipe.predictions import export_classifier as export

        return export.ExportClassifier(bounds, export.find(options.export_dir))
    from tfpipe.predictions.run_classifier import RunClassifier

    return RunClassifier(bounds, options.run_dir, options.tta)


def _threshold(rule: thresholds.Rule, classifier) -> thresholds.Threshold:
    """Choose the threshold by a run's validation images, clipped as the predictions will be."""
    if rule.method == thresholds.BY_CLASS:
        raise UserError(
            "--threshold=NAME=NUMBER is for images that may have several classes, and the model"
            " takes each image for one: give a number",
            status=2,
        )
    if len(classifier.classes) != 2:
        raise UserError(
            f"--threshold is for two classes, and the model has {len(classifier.classes)}: without"
            " it the most probable class is the label",
            status=2,
        )
    if rule.method == thresholds.GIVEN:
        return thresholds.choose(rule, None, None)
    from tfpipe.predictions.image_classifier import clipped

    found = _validation(rule, classifier)
    probabilities = clipped(found["probabilities"], classifier.bounds)
    return thresholds.choose(rule, probabilities[:, 1], found["label"])


def _class_thresholds(rule: thresholds.Rule | None, classifier) -> tuple[float, ...] | None:
    """Return the threshold of each class, where images may have several; None if unknown."""
    if rule is None:
        return classifier.thresholds
    if rule.method in (thresholds.GIVEN, thresholds.BY_CLASS):
        return thresholds.given(rule, classifier.classes, classifier.thresholds)
    found = _validation(rule, classifier)
    return thresholds.of_classes(found["probabilities"], found["label"], rule)


def _validation(rule: thresholds.Rule, classifier) -> "dict[str, np.ndarray]":
    """Return a run's predictions of its validation images."""
    from tfpipe.runs import loaded_run

    if not loaded_run.is_calibrated(classifier.run):
        raise UserError(
            f"--threshold={rule.method}: the validation predictions of {classifier.run.folder} are"
            " missing or of other weights: run tfpipe.train there to its end, or give a number"
        )
    return predictions_file.read(classifier.run.predictions_file)


def _summary(
    options: Options, classifier, predictions, threshold: thresholds.Threshold | None
) -> dict[str, object]:
    """Return the content of OUT.summary.json, from the predictions and the flags alone."""
    return {
        "tfpipe_version": tfpipe.__version__,
        "source": list(options.source),
        "run_dir": options.run_dir or None,
        "export_dir": options.export_dir or None,
        "server": options.server or None,
        "classifier": classifier.identity,
        "clip": classifier.bounds,
        "classes": classifier.classes,
        "threshold": threshold and dataclasses.asdict(threshold),
        "images": len(predictions.names),
        "unreadable": len(predictions.rejects),
        "skipped": len(predictions.skipped),
        "labels": predictions.count(),
        **({} if (strange := predictions.count_unfamiliar()) is None else {"unfamiliar": strange}),
    }


def _report(predictions, threshold: thresholds.Threshold | None, out: remote.Path) -> None:
    said = f"wrote {len(predictions.names):,} predictions to {out}"
    if len(predictions.classes) <= _MOST_CLASSES:
        said += f": {', '.join(f'{n:,} {name}' for name, n in predictions.count().items())}"
    if threshold:
        said += f" (threshold {threshold})"
    terminal.say(said)
    if strange := predictions.count_unfamiliar():
        terminal.say(f"{strange:,} of them may show none of the classes: `unfamiliar` is above 1")


def _judge(prediction, predictions, out: remote.Path) -> int:
    """Report files that could not be read, or were not tried; return the exit status."""
    from tfpipe.sources import COPY
    from tfpipe.sources.member import is_image_name

    path, locate = output.rejects_path(out), prediction.source.locate
    if predictions.rejects:
        known = prediction.classifier.class_shares
        got = "the classes' shares in the training records" if known else "equal shares"
        first, (reason, detail) = next(iter(predictions.rejects.items()))
        terminal.error(
            f"{len(predictions.rejects):,} of the files could not be read and got {got};"
            f" the first is {locate(first)} ({reason}: {detail}); see {path}"
        )
    if predictions.skipped:
        name, reason, detail = predictions.skipped[0]
        terminal.say(
            f"{len(predictions.skipped):,} other files were skipped, the first {locate(name)}"
            f" ({reason}: {detail}); see {path}"
        )
    missed = any(is_image_name(name) and why != COPY for name, why, _ in predictions.skipped)
    return REJECTS if predictions.rejects or missed else 0


def _bounds(text: str) -> tuple[float, float] | None:
    """Return what --clip says."""
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise UserError(f"--clip={text}: give two numbers LOW,HIGH with 0 <= LOW < HIGH <= 1")
    return low, high


if __name__ == "__main__":
    cli.run(main, Options)
