"""Measures a trained classifier on records and writes metrics.json into its run folder.

    python -m tfpipe.evaluate --run_dir=runs/NAME [--records=records/OTHER] [--split=val]

Everything but the split follows from the run. The arithmetic is float32, as in the exported model,
whatever precision the training used.
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


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    from tfpipe.fit import inference, metrics
    from tfpipe.fit import run as runs
    from tfpipe.ingest import manifest as manifests
    from tfpipe.ingest.part import Part
    from tfpipe.input import pipeline

    run = runs.load(options.run_dir)
    manifest = manifests.load(options.records or run.config.records)
    manifest.check()
    runs.check_classes(run, manifest)
    split = options.split or run.config.val_split
    total = manifest.images(split)
    classifier = run.restore()
    batches = pipeline.eval_batches(
        Part(manifest, (split,)), image_size=classifier.image_size, batch_size=inference.BATCH_SIZE
    )
    found = inference.predict(classifier, batches, total, f"evaluating {split}")
    measured = metrics.summary(found["probabilities"], found["label"], run.resolved.classes)
    path = run.folder / "metrics.json"
    storage.write_json(
        path,
        {
            "run_dir": options.run_dir,
            "records": str(manifest.folder),
            "records_fingerprint": manifest.fingerprint,
            "split": split,
            **measured,
        },
    )
    rows = [
        ["images", f"{measured['n']:,}"],
        ["log loss", f"{measured['log_loss']:.4f}"],
        ["accuracy", f"{measured['accuracy']:.4f}"],
    ]
    rows += [[f"{name} found", _share(value)] for name, value in measured["recall"].items()]
    terminal.show_table(f"{split} of {manifest.folder}", ["measure", "value"], rows)
    terminal.say(f"written to {path}")


def _share(value: float | None) -> str:
    return "no images" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    cli.run(main, Options)
