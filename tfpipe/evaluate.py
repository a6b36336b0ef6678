"""Measures a trained classifier on records and writes metrics.json into its folder.

    python -m tfpipe.evaluate --run_dir=runs/NAME [--records=records/OTHER] [--split=val]

The folder is a run's, a cross-validation's (--folds) or an ensemble's. Everything but the split
follows from it. The arithmetic is float32, as in the exported model, whatever precision the
training used. The log loss is that of the answers as exported; it is shown before calibration and
before clipping too. On the split that the run was calibrated on, its validation split, a calibrated
loss is a little lower than elsewhere; so is that of an ensemble on the split that it was fitted to.

Every image of a cross-validation was trained on by most of its runs. Without --records and --split
its own out-of-fold predictions are measured, in which each image is classified by the run that has
not seen it, and calibrated by the others; so are those of an ensemble that has such a member.
"""

import dataclasses

from tfpipe import cli, storage, terminal
from tfpipe.errors import UserError
from tfpipe.options import option

# Titles in the table, by the names in metrics.json.
MEASURES = {
    "log_loss": "log loss",
    "log_loss_calibrated": "  before clipping",
    "log_loss_raw": "  before calibration",
    "accuracy": "accuracy",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train, or of an ensemble")
    records: str = option("records to evaluate on; empty for those of the run", "")
    split: str = option("split of the records, or all; empty for the run's validation split", "")
    tta: str = option("test-time views, or none; empty for those of the run", "")


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    from tfpipe.fit import trained

    run = trained.load(options.run_dir)
    if run.out_of_fold and not (options.records or options.split):
        what, measured = _out_of_fold(run, options)
    else:
        what, measured = _on_records(run, options)
    path = run.folder / trained.METRICS
    described = {"run_dir": options.run_dir, "tta": options.tta or run.tta}
    storage.write_json(path, described | measured)
    rows = [["images", f"{measured['n']:,}"]]
    rows += [
        [title, f"{measured[name]:.4f}"] for name, title in MEASURES.items() if name in measured
    ]
    rows += [[f"{name} found", _share(value)] for name, value in measured["recall"].items()]
    terminal.show_table(what, ["measure", "value"], rows)
    terminal.say(f"written to {path}")


def _on_records(run, options: Options) -> tuple[str, dict[str, object]]:
    """Runs the classifier; returns what it was measured on, and what metrics.json has of it."""
    from tfpipe.fit import finish, inference, trained
    from tfpipe.ingest import manifest as manifests
    from tfpipe.ingest.part import Part
    from tfpipe.input import pipeline
    from tfpipe.measure.summary import summary

    manifest = manifests.load(options.records or run.records)
    manifest.check()
    trained.check_classes(run, manifest)
    part = Part(manifest, (options.split,)) if options.split else run.validation(manifest)
    predictor = run.restore(tta=options.tta)
    batches = pipeline.eval_batches(
        part, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    )
    found = inference.predict(predictor, batches, part.images, f"evaluating {part.name}")
    before = finish.steps(predictor.calibration, found["logits"], predictor.output)
    del before["log_loss"]
    measured = summary(found["probabilities"], found["label"], run.classes, before=before)
    return f"{part.name} of {manifest.folder}", {
        "records": str(manifest.folder),
        "records_fingerprint": manifest.fingerprint,
        "split": part.name,
        "calibration": dataclasses.asdict(predictor.calibration),
        **measured,
    }


def _out_of_fold(run, options: Options) -> tuple[str, dict[str, object]]:
    """Does as `_on_records` with the predictions that are there."""
    import numpy as np

    from tfpipe.fit import combine, finish
    from tfpipe.measure.summary import summary

    if options.tta:
        raise UserError(
            f"--tta={options.tta}: the out-of-fold predictions of {run.folder} are of its own"
            " views: give --split or --records too"
        )
    found = finish.read_predictions(run.predictions_file)
    before = {"log_loss_raw": np.exp(combine.log_probabilities(found["logits"]))}
    measured = summary(found["probabilities"], found["label"], run.classes, before=before)
    terminal.say(
        f"{run.folder}: each image as classified by the runs that have not seen it; --split or"
        " --records classifies by all of them together"
    )
    return f"out-of-fold predictions of {run.folder}", {
        "records": run.records,
        "split": "out-of-fold",
        **measured,
    }


def _share(value: float | None) -> str:
    return "no images" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    cli.run(main, Options)
