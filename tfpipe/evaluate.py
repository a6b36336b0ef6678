"""Measures a trained classifier on records and writes metrics.json into its run folder.

    python -m tfpipe.evaluate --run_dir=runs/NAME [--records=records/OTHER] [--split=val]

Everything but the split follows from the run. The arithmetic is float32, as in the exported model,
whatever precision the training used. The log loss is that of the answers as exported; it is shown
before calibration and before clipping too. On the split that the run was calibrated on, its
validation split, a calibrated loss is a little lower than elsewhere.
"""

import dataclasses

from tfpipe import cli, storage, terminal
from tfpipe.options import option


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train")
    records: str = option("records to evaluate on; empty for those of the run", "")
    split: str = option("split of the records, or all; empty for the run's validation split", "")
    tta: str = option("test-time views, or none; empty for those of the run", "")


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    from tfpipe.fit import finish, inference, metrics
    from tfpipe.fit import run as runs
    from tfpipe.ingest import manifest as manifests
    from tfpipe.ingest.part import Part
    from tfpipe.input import pipeline

    run = runs.load(options.run_dir)
    manifest = manifests.load(options.records or run.config.records)
    manifest.check()
    runs.check_classes(run, manifest)
    part = Part(manifest, (options.split,)) if options.split else run.parts(manifest)[1]
    predictor = run.restore(tta=options.tta)
    batches = pipeline.eval_batches(
        part, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    )
    found = inference.predict(predictor, batches, part.images, f"evaluating {part.name}")
    measured = metrics.summary(found["probabilities"], found["label"], run.resolved.classes)
    measured |= finish.stages(
        predictor.calibration, found["logits"], found["label"], predictor.output
    )
    path = run.folder / "metrics.json"
    storage.write_json(
        path,
        {
            "run_dir": options.run_dir,
            "records": str(manifest.folder),
            "records_fingerprint": manifest.fingerprint,
            "split": part.name,
            "tta": options.tta or run.config.tta,
            "calibration": dataclasses.asdict(predictor.calibration),
            **measured,
        },
    )
    rows = [
        ["images", f"{measured['n']:,}"],
        ["log loss", f"{measured['log_loss']:.4f}"],
        ["  before clipping", f"{measured['log_loss_calibrated']:.4f}"],
        ["  before calibration", f"{measured['log_loss_raw']:.4f}"],
        ["accuracy", f"{measured['accuracy']:.4f}"],
    ]
    rows += [[f"{name} found", _share(value)] for name, value in measured["recall"].items()]
    terminal.show_table(f"{part.name} of {manifest.folder}", ["measure", "value"], rows)
    terminal.say(f"written to {path}")


def _share(value: float | None) -> str:
    return "no images" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    cli.run(main, Options)
