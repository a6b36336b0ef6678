"""Export a trained classifier as the next version of a served model.

    tfpipe export --run_dir=runs/NAME --export_dir=export/NAME

Writes export/NAME/<version>/, a float32 SavedModel with all preprocessing, test-time views and
calibration in its signatures, requests to warm up with, and a model card. Before a server can see
it, the version is loaded by the real one in a fresh process, whose answers must be those of the
evaluation, and its graph and --require are checked; the folder then appears whole, so a server that
watches export/NAME may be running. A version that fails leaves nothing behind.
"""

import dataclasses
import os
import pathlib
import shlex
import time

from tfpipe import publish
from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

AUTO, TIMESTAMP = "auto", "timestamp"
NONE, FREEZE = "none", "freeze"

# TensorFlow Serving reads versions as int64.
_LARGEST = 2**63 - 1
_MOST_IMAGES = 4096  # in a batch


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train, or of an ensemble")
    export_dir: str = option("folder of the model's versions, as export/NAME")
    version: str = option(
        "a number, auto for one above the highest there, timestamp for the seconds since 1970",
        AUTO,
        common=True,
    )
    require: str = option(
        "what its measures on validation images must be, as log_loss<0.06,accuracy>0.98",
        "",
        common=True,
    )
    optimize: str = option(
        "freeze has the weights as constants, with BatchNorm folded into convolutions; none as"
        " variables, for weights beyond 1 GB",
        FREEZE,
        choices=(FREEZE, NONE),
        group="Form of the model",
        common=True,
    )
    serving_batch_sizes: str = option(
        "batches that a server warms up with, in images", "1,8,32", group="Checks and warm-up"
    )
    check_images: int = option(
        "validation images whose served answers must be the evaluation's; 0 exports unchecked,"
        " without requests to warm up with",
        64,
    )
    records: str = option("records of the checked images; empty for those of the run", "")
    tflite: str = option(
        "also writes model.tflite for phones; int8 finds its ranges by the --check_images",
        NONE,
        choices=(NONE, "float32", "int8"),
        group="Form of the model",
        common=True,
    )
    license: str = option(
        "license of the model, for its card", "", alias="licence", group="Model card", common=True
    )
    serving_version: str = option(
        "version of the TensorFlow Serving that must know all operations of the graph, as 2.15.1",
        publish.SERVING_VERSION,
        group="Checks and warm-up",
    )
    onnx: bool = option(
        "also writes model.onnx for ONNX Runtime; needs pip install 'tfpipe[onnx]'",
        False,
        group="Form of the model",
    )


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    # TensorFlow would take all memory of a GPU, and leave none to the server of the check.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

    from tfpipe.publish import card, graph, onnx_model, requirement

    requirements = requirement.parse(options.require)
    graph.parse_version(options.serving_version)
    sizes = _sizes(options.serving_batch_sizes)
    if options.check_images < 0:
        raise UserError(f"--check_images={options.check_images}: give 0 or more", status=2)
    if options.tflite != NONE and not options.check_images:
        raise UserError(
            f"--tflite={options.tflite} is compared with --check_images: give at least 1", status=2
        )
    if options.onnx and not options.check_images:
        raise UserError("--onnx is compared with --check_images: give at least 1", status=2)
    if options.onnx:
        onnx_model.check_installed()
    folder = pathlib.Path(options.export_dir)
    version = _version(folder, options.version)

    from tfpipe.model import signatures
    from tfpipe.runs import loaded_run
    from tfpipe.training import loggers
    from tfpipe.training.run_folder import RunFolder

    run = loaded_run.load(options.run_dir)
    predictor = run.restore()
    measured = card.measures(run)
    requirement.check(requirements, measured)
    if options.records or not options.check_images:  # else they are opened below
        loaded_run.warn_if_rebuilt(run)
    if options.tflite != NONE and run.thresholds is not None:
        raise UserError(
            f"--tflite={options.tflite}: an image of {run.folder} may have several classes, and"
            " model.tflite has no thresholds that choose them: leave it out"
        )
    context = signatures.Context(
        predictor,
        run.classes,
        freeze=options.optimize == FREEZE,
        depth16=run.depth16,
        thresholds=run.thresholds,
    )
    with storage.atomic_folder(folder / str(version)) as work:
        labels = work / "labels.txt"
        labels.write_text("".join(f"{name}\n" for name in run.classes), encoding="utf-8")
        definitions = signatures.save(context, str(work), str(labels))
        labels.unlink()  # its copy among the assets stays
        graph.check(work, options.serving_version)
        described = card.describe(
            run,
            predictor,
            measured,
            name=folder.name,
            version=version,
            signatures=sorted(definitions),
            optimize=options.optimize,
            license=options.license,
        )
        card.write(work, described)
        if options.check_images:
            _check(options, run, predictor, work, definitions, sizes)
    if isinstance(run, RunFolder):
        for name in (card.TEXT, card.JSON):
            loggers.attach(run, folder / str(version) / name)
    terminal.say(f"exported {options.run_dir} to {folder / str(version)}")
    terminal.say(f"it goes with TensorFlow Serving {options.serving_version} or newer")
    flags = shlex.join([f"--model_name={folder.name}", f"--model_base_path={folder}"])
    terminal.say(f"next: tfpipe serve {flags}")


def _check(options: Options, run, predictor, work: pathlib.Path, definitions, sizes) -> None:
    """Writes what is made of sample images, and compares the served answers with theirs."""
    from tfpipe.publish import gate, lite, onnx_model
    from tfpipe.publish import sample_images as samples
    from tfpipe.publish import warm_up_requests as warm_up

    taken = samples.take(run, predictor, options.records, options.check_images)
    name = pathlib.Path(options.export_dir).name
    count = warm_up.write(work, definitions, sizes, taken, name=name)
    if options.tflite != NONE:
        same, difference = lite.write(
            work, predictor, taken, options.tflite, name=name, classes=run.classes
        )
        terminal.say(
            f"{lite.FILE}: {same} of {len(taken.files)} images get the same class; probabilities"
            f" differ by up to {difference:.2g}"
        )
        if predictor.familiarity:
            terminal.say(
                f"{lite.FILE} gives no `unfamiliar`: it does not tell images of other kinds"
            )
    if options.onnx:
        difference = onnx_model.write(work, predictor, taken, run.classes, run.thresholds)
        terminal.say(
            f"{onnx_model.FILE}: ONNX Runtime's probabilities differ from the evaluation's by up to"
            f" {difference:.1g}"
        )
    difference = gate.check(work, taken)
    terminal.say(
        f"served after {count} requests to warm up: probabilities differ from the evaluation's by"
        f" up to {difference:.1g}"
    )


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = [0]
    if not 1 <= sizes[0] <= sizes[-1] <= _MOST_IMAGES:
        raise UserError(
            f"--serving_batch_sizes={text}: give numbers from 1 to {_MOST_IMAGES:,}, as in 1,8,32",
            status=2,
        )
    return sizes


def _version(folder: pathlib.Path, asked: str) -> int:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--export_dir={folder} is a file: give a folder")
    names = [p.name for p in folder.glob("*")]
    there = {int(name) for name in names if name.isascii() and name.isdecimal()}
    if asked == AUTO:
        return max(there, default=0) + 1
    version = int(time.time()) if asked == TIMESTAMP else None
    if version is None and asked.isascii() and asked.isdecimal():
        version = int(asked)
    if version is None or not 1 <= version <= _LARGEST:
        raise UserError(
            f"--version={asked}: give a number from 1 to {_LARGEST}, {AUTO} or {TIMESTAMP}",
            status=2,
        )
    if version in there:
        raise UserError(
            f"{folder / str(version)} exists already: give another --version, or {AUTO}"
        )
    return version


if __name__ == "__main__":
    cli.run(main, Options)
