"""Trains a classifier on records, and goes on where it stopped when run again.

    python -m tfpipe.train --flagfile=configs/NAME.flags --records=records/NAME --run_dir=runs/NAME

The run folder gets the resolved configuration (config.json), the best weights, checkpoints to
resume from, log.csv and TensorBoard's logs; at the end the best weights are calibrated on the
validation split. Later commands need only --run_dir. With --describe the model is shown, and
nothing else is done.
"""

import pathlib

from tfpipe import cli, terminal
from tfpipe.config import TrainConfig

SALVAGED = "salvaged"  # folder in the run's, of what is left of damaged shards


def main(config: TrainConfig) -> None:
    """Runs the command; see the module's docstring."""
    if config.describe:
        show_model(config)
    elif config.folds:
        cross_validate(config)
    else:
        train(config)
        terminal.say(f"next: python -m tfpipe.evaluate --run_dir={config.run_dir}")


def cross_validate(config: TrainConfig) -> None:
    """Trains a run for each fold of the records, and joins their held-out predictions."""
    import tensorflow as tf

    from tfpipe.fit import crossval
    from tfpipe.ingest import manifest as manifests

    runs = crossval.configs(config, manifests.load(config.records))
    for run in runs:
        terminal.say(f"fold {run.fold} of {len(runs)}:")
        tf.keras.backend.clear_session()  # the models of the folds before
        train(run)
    crossval.join(config, runs)


def train(config: TrainConfig) -> None:
    """Trains one run, or goes on with it."""
    import tensorflow as tf

    from tfpipe.fit import (
        average,
        finish,
        inputs,
        loop,
        losses,
        run,
        runtime,
        stages,
        trial,
        update,
    )
    from tfpipe.ingest import manifest as manifests
    from tfpipe.ingest import salvage
    from tfpipe.input import pipeline
    from tfpipe.input.augment import Augment
    from tfpipe.model import split

    # Whatever can be wrong is found before the first long step, and before anything is written.
    inputs.reading(config, image_size=1)
    planned = stages.parse(config)
    manifest = manifests.load(config.records)
    manifest = salvage.readable(
        manifest,
        (config.train_split, config.val_split),
        max_corrupt=config.max_corrupt,
        folder=pathlib.Path(config.run_dir) / SALVAGED,
    )
    learned, held_out = run.choose_parts(config, manifest)
    for stage in planned:
        update.check(stage.config, pipeline.steps_per_epoch(learned, config.batch_size))
        average.check(stage.config.average)
        Augment(stage.config.augment)
    finish.check(config, len(manifest.classes))
    chosen = run.choose_runtime(config)
    runtime.compile_quietly()
    if chosen.measure:
        frozen = all(stage.start == split.HEAD for stage in planned)
        chosen = runtime.measured(
            chosen,
            lambda policy: trial.make(
                lambda: plain_model(config, len(manifest.classes)),
                "features" if frozen else "all",
                config.batch_size,
                policy=policy,
                xla=chosen.xla,
            ),
        )
    terminal.say(chosen.explanation)
    runtime.seed_everything(config.seed)
    tf.keras.mixed_precision.set_global_policy(chosen.precision)
    opened = run.start(config, manifest, chosen.precision, chosen.xla)
    for stage in planned:
        losses.build(stage.config, opened.resolved.shares)
    classifier = opened.build(first_weights=True)
    for stage in planned:
        split.split(classifier, stage.start)
    terminal.say(describe(opened, classifier, learned, held_out))
    with opened.locked():
        opened.save()
        loop.Loop(opened, classifier, learned, held_out).fit()
        finish.finish(opened, held_out)


def show_model(config: TrainConfig) -> None:
    """Prints the model that these options make; of the records only the classes are read."""
    from tfpipe.fit import stages
    from tfpipe.ingest import manifest as manifests
    from tfpipe.model import describe as description
    from tfpipe.model import split

    if pathlib.Path(config.records).exists():
        classes = len(manifests.load(config.records).classes)
    else:
        classes = 2
        terminal.say(f"--records={config.records} does not exist: two classes are assumed")
    built = plain_model(config, classes)
    trained = {}
    planned = stages.parse(config)
    for stage in planned:
        batch_norm = stage.config.batch_norm == "trained"
        parts = split.split(built, stage.start, batch_norm=batch_norm)
        name = "trainable" if len(planned) == 1 else f"trainable in stage {stage.name}"
        trained[name] = parts.parameters
    description.show(built, trained)


def plain_model(config: TrainConfig, classes: int):
    """Returns the classifier that these options make, with random weights."""
    from tfpipe.fit import run
    from tfpipe.model import backbones, classifier

    branches = [
        classifier.Branch(branch["name"], branch["size"], backbones.NO_WEIGHTS)
        for branch in run.choose_branches(config)
    ]
    return classifier.build(
        branches, classes, pooling=config.pooling, head=config.head, output=config.output
    )


def describe(opened, classifier, learned, held_out) -> str:
    """Returns one line on what is trained on what."""
    config = opened.config
    names = " + ".join(f"{b['name']} at {b['size']}" for b in opened.resolved.branches)
    augmented = (
        f"; augmentation {config.augment}, compiled with XLA wherever it runs"
        if config.augment
        else ""
    )
    classes = len(opened.resolved.classes)
    return (
        f"{names}: {classifier.model.count_params():,} parameters, on {learned.count:,} images of"
        f" {classes} classes ({learned.name}), validated on {held_out.images:,} ({held_out.name})"
        f"{augmented}"
    )


if __name__ == "__main__":
    cli.run(main, TrainConfig)
