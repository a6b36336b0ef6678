"""One run, from its options to calibrated weights."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.input import pipeline
from tfpipe.model import backbones, classifier, split
from tfpipe.model.classifier import Classifier
from tfpipe.records import manifest as manifests
from tfpipe.records import salvage
from tfpipe.records.part import Part
from tfpipe.runs import finish
from tfpipe.training import (
    average,
    inputs,
    loop,
    losses,
    parameter_server,
    resolve,
    run,
    runtime,
    stages,
    trial,
    update,
)
from tfpipe.training.config import TrainConfig
from tfpipe.training.precision import under
from tfpipe.training.runtime import Runtime
from tfpipe.training.stages import Stage
from tfpipe.training.strategy import Cluster

SALVAGED = "salvaged"  # folder in the run's, of what is left of damaged shards


def train(config: TrainConfig, cluster: Cluster) -> str:
    """Trains one run, or goes on with it, as one worker of a cluster.

    Returns:
        The precision that it was trained in.

    Raises:
        UserError: an option, the records or the run's folder are not as they have to be.
    """
    with cluster.outputs(config.run_dir) as folder:
        precision = _fit(config, cluster, folder)
        cluster.barrier()
        return precision


def _fit(config: TrainConfig, cluster: Cluster, folder: pathlib.Path) -> str:
    """Does as `train`, and writes into the folder."""
    # Whatever can be wrong is found before the first long step, and before anything is written.
    inputs.input_config(config, image_size=1, workers=cluster.workers)
    planned = stages.parse(config)
    manifest = manifests.load(config.records)
    manifest = salvage.readable(
        manifest,
        (config.train_split, config.val_split),
        max_corrupt=config.max_corrupt,
        folder=folder / SALVAGED,
    )
    learned, held_out = resolve.parts(config, manifest)
    steps = pipeline.steps_per_epoch(learned, config.batch_size)
    asynchronous = parameter_server.is_asynchronous(cluster.strategy)
    for stage in planned:
        update.check(stage.config, steps, cluster.strategy.num_replicas_in_sync)
        average.check(stage.config.average)
        Augment(stage.config.augment)
        if asynchronous:
            parameter_server.check(stage.config)
    finish.check(config, len(manifest.classes))
    runtime.compile_quietly()
    images = learned.count * stages.passes(planned)
    chosen = _choose_runtime(config, planned, len(manifest.classes), images, cluster)
    if cluster.is_chief:
        terminal.say(chosen.explanation)
    else:
        terminal.say(f"worker {cluster.worker} of {cluster.workers}: worker 0 tells how it goes on")
        terminal.be_quiet(True)
    if asynchronous:
        parameter_server.check_precision(chosen.precision)
    runtime.seed_everything(config.seed)
    opened = run.start(config, manifest, chosen.precision, chosen.xla)
    for stage in planned:
        losses.build(stage.config, opened.resolved.shares)
    with under(chosen.precision), cluster.strategy.scope():
        built = opened.build(first_weights=True)
        for stage in planned:
            split.check(built, stage.start)
    terminal.say(_describe(opened, built, learned, held_out, cluster))
    locked = opened.locked() if cluster.is_chief else contextlib.nullcontext()
    with under(chosen.precision), locked:
        if cluster.is_chief:
            opened.save()
        loop.Loop(opened, built, learned, held_out, cluster, folder).fit()
        if cluster.is_chief:
            one_device = cluster.strategy.num_replicas_in_sync == 1 and not asynchronous
            plain = chosen.precision == "float32" and one_device
            finish.finish(opened, held_out, built if plain else None)
    return chosen.precision


def _choose_runtime(
    config: TrainConfig, planned: Sequence[Stage], classes: int, images: int, cluster: Cluster
) -> Runtime:
    """Returns precision and compiler, which the chief measures, if need be, for all workers.

    Args:
        config: the options.
        planned: the stages that they name.
        classes: how many there are.
        images: that the training takes through a backbone, each as often as it does.
        cluster: of the workers.
    """
    chosen = runtime.choose(config.precision, config.xla)
    if chosen.measure and (before := run.begun(config.run_dir)):
        precision = before.resolved.precision
        chosen = dataclasses.replace(
            chosen, precision=precision, why="measured when the run began", measure=False
        )
    if chosen.measure and images < runtime.MEASURED_FROM:
        why = f"{chosen.why}, and for so few images it is not measured"
        chosen = dataclasses.replace(chosen, why=why, measure=False)
    if chosen.measure and cluster.is_chief:
        # Where a part is frozen in every stage, most of the time goes into what it makes of the
        # images.
        frozen = all(stage.start != split.ALL for stage in planned)
        chosen = runtime.measured(
            chosen,
            lambda policy: trial.make(
                lambda: plain_model(config, classes),
                "features" if frozen else "all",
                config.batch_size // cluster.strategy.num_replicas_in_sync,
                policy=policy,
                xla=chosen.xla,
            ),
        )
    precision, xla = cluster.agree((chosen.precision, chosen.xla))
    return dataclasses.replace(chosen, precision=precision, xla=xla)


def plain_model(config: TrainConfig, classes: int) -> Classifier:
    """Returns the classifier that these options make, with random weights."""
    branches = [
        classifier.Branch(branch["name"], branch["size"], backbones.NO_WEIGHTS)
        for branch in resolve.branches(config)
    ]
    return classifier.build(
        branches,
        classes,
        pooling=config.pooling,
        head=config.head,
        output=config.output,
        head_init=config.head_init,
    )


def _describe(
    opened: run.Run, built: Classifier, learned: Part, held_out: Part, cluster: Cluster
) -> str:
    """Returns one line on what is trained on what."""
    config = opened.config
    names = " + ".join(f"{b['name']} at {b['size']}" for b in opened.resolved.branches)
    augmented = (
        f"; augmentation {config.augment}, compiled with XLA wherever it runs"
        if config.augment
        else ""
    )
    replicas = cluster.strategy.num_replicas_in_sync
    shared = f"; each batch shared by {replicas} devices" if replicas > 1 else ""
    classes = len(opened.resolved.classes)
    return (
        f"{names}: {built.model.count_params():,} parameters, on {learned.count:,} images of"
        f" {classes} classes ({learned.name}), validated on {held_out.images:,} ({held_out.name})"
        f"{augmented}{shared}"
    )
