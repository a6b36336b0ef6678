"""Trains one run, from its options to calibrated weights."""

import contextlib
import dataclasses
import pathlib

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.input import pipeline
from tfpipe.model import backbones, classifier, partition
from tfpipe.model.classifier import Classifier
from tfpipe.records import coverage, salvage
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.runs import run_calibration
from tfpipe.training import (
    averaging,
    inputs,
    loop,
    losses,
    monitor,
    randomness,
    resolve,
    resume,
    runtime,
    stages,
    update,
)
from tfpipe.training.cluster import Cluster
from tfpipe.training.precision import under
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.runtime import Runtime
from tfpipe.training.train_config import TrainConfig

SALVAGED = "salvaged"  # folder in the run folder, of the good records of damaged shards


def train(config: TrainConfig, cluster: Cluster) -> None:
    """Train one run, or resume it, as one worker of a cluster.

    Raises:
        UserError: an option is wrong, or the records or the run folder do not fit.
    """
    with cluster.outputs(config.run_dir) as folder:
        _fit(config, cluster, folder)
        cluster.barrier()


def _fit(config: TrainConfig, cluster: Cluster, folder: pathlib.Path) -> None:
    """Train one run and write its results to `folder`."""
    # Find every mistake before the first long step, and before anything is written.
    inputs.input_config(config, image_size=1, workers=cluster.workers)
    planned = stages.parse(config)
    manifest = salvage.readable(
        manifests.load(config.records),
        (config.train_split, config.val_split),
        max_corrupt=config.max_corrupt,
        folder=folder / SALVAGED,
    )
    train_split, val_split = resolve.parts(config, manifest)
    if cluster.is_chief and (gaps := coverage.describe_subsets(train_split, val_split)):
        terminal.warn(gaps)
    replicas = cluster.strategy.num_replicas_in_sync
    size = pipeline.fitting_batch_size(train_split, config.batch_size, replicas)
    if size < config.batch_size:
        terminal.say(
            f"`batch_size={config.batch_size}`: {train_split.name} has {train_split.count} images,"
            f" so a step takes {size}"
        )
        config = dataclasses.replace(config, batch_size=size)
        planned = stages.parse(config)
    for stage in planned:
        cluster.check(stage.config.batch_size)
        steps = pipeline.steps_per_epoch(train_split, stage.config.batch_size)
        update.check(stage.config, steps, replicas)
        averaging.check(stage.config.average)
        Augment(stage.config.augment)
    classifier.check_adapts(config.head)
    monitor.build(config, len(manifest.classes))
    run_calibration.check(config, len(manifest.classes))
    chosen = _choose_runtime(config, cluster)
    if cluster.is_chief:
        terminal.say(chosen.explanation)
    else:
        terminal.say(f"worker {cluster.worker} of {cluster.workers}: worker 0 shows the progress")
        terminal.be_quiet(True)
    randomness.seed_everything(config.seed)
    run = resume.start(config, manifest, chosen.precision, chosen.xla)
    for stage in planned:
        losses.build(stage.config, run.resolved.shares)
    with (
        under(chosen.precision),
        cluster.strategy.scope(),
        randomness.collect_generators() as generators,
    ):
        built = run.build(first_weights=True)
    for stage in planned:
        partition.check(built, stage.start)
    terminal.say(_describe(run, built, train_split, val_split, cluster))
    locked = run.locked() if cluster.is_chief else contextlib.nullcontext()
    with under(chosen.precision), locked:
        if cluster.is_chief:
            run.save()
        loop.Loop(run, built, generators, train_split, val_split, cluster, folder).fit()
        if cluster.is_chief:
            plain = chosen.precision == "float32" and cluster.strategy.num_replicas_in_sync == 1
            run_calibration.calibrate(run, val_split, built if plain else None)


def _choose_runtime(config: TrainConfig, cluster: Cluster) -> Runtime:
    """Return precision and compiler, the same on all workers."""
    before = resume.begun(config.run_dir)
    begun = before.resolved.precision if before else ""
    chosen = runtime.choose(config.precision, config.xla, begun)
    precision, xla = cluster.agree((chosen.precision, chosen.xla))
    return dataclasses.replace(chosen, precision=precision, xla=xla)


def plain_model(config: TrainConfig, classes: int) -> Classifier:
    """Return the classifier of these options, with random weights."""
    branches = [
        classifier.BackboneConfig(branch["name"], branch["size"], backbones.NO_WEIGHTS)
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
    run: RunFolder, built: Classifier, train_split: Subset, val_split: Subset, cluster: Cluster
) -> str:
    """Return one line on the model and its records."""
    config = run.config
    names = " + ".join(f"{b['name']} at {b['size']}" for b in run.resolved.branches)
    augmented = (
        f"; augmentation {config.augment}, compiled with XLA on every device"
        if config.augment
        else ""
    )
    replicas = cluster.strategy.num_replicas_in_sync
    shared = f"; each batch shared by {replicas} devices" if replicas > 1 else ""
    return (
        f"{names}: {built.model.count_params():,} parameters, on {train_split.count:,} images of"
        f" {len(run.resolved.classes)} classes ({train_split.name}), validated on"
        f" {val_split.images:,} ({val_split.name}){augmented}{shared}"
    )
