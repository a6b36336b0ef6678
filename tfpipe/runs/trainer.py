"""Trains one run, from its options to calibrated weights."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Sequence

import tf_keras

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.images import preprocess_host
from tfpipe.input import pipeline, sampling
from tfpipe.model import backbones, classifier, partition
from tfpipe.model.classifier import Classifier
from tfpipe.model.precision import under
from tfpipe.records import coverage, limit, salvage
from tfpipe.records import manifest as manifests
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.subset import Subset
from tfpipe.runs import familiarity_fit, first_weights, run_calibration, teacher, trained_images
from tfpipe.training import (
    averaging,
    inputs,
    loggers,
    loop,
    losses,
    monitor,
    randomness,
    range_test,
    resolve,
    resume,
    run_folder,
    runtime,
    stage_models,
    stages,
    update,
)
from tfpipe.training.cluster import Cluster
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.runtime import Runtime
from tfpipe.training.train_config import TrainConfig


def train(
    config: TrainConfig, cluster: Cluster, callbacks: Sequence[tf_keras.callbacks.Callback] = ()
) -> None:
    """Train one run, or resume it, as one worker of a cluster.

    `callbacks` are called as by `Model.fit`, on every worker.

    Raises:
        UserError: an option is wrong, or the records or the run folder do not fit.
    """
    with cluster.outputs(config.run_dir) as folder, preprocess_host.one_thread():
        _fit(config, cluster, folder, callbacks)
        cluster.barrier()


def _fit(
    config: TrainConfig,
    cluster: Cluster,
    folder: pathlib.Path,
    callbacks: Sequence[tf_keras.callbacks.Callback],
) -> None:
    """Train one run and write its results to `folder`."""
    # Find every mistake before the first long step, and before anything is written.
    own = inputs.input_config(config, image_size=1, workers=cluster.workers)
    planned = stages.parse(config)
    for stage in planned:
        _check_length(stage.config)
    manifest = salvage.readable(
        manifests.load(config.records),
        (config.train_split, config.val_split),
        max_corrupt=config.max_corrupt,
        folder=folder / run_folder.SALVAGED,
    )
    if config.limit:
        place = folder / run_folder.LIMITED
        manifest = limit.draw(manifest, config.limit, config.seed, place)
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
        update.check(range_test.provisional(stage.config), steps, replicas)
        averaging.check(stage.config.average)
        own.check(Augment(stage.config.augment, crop_on_host=True))
        favours_rare = sampling.parse(stage.config.sampling) < 1
        if favours_rare and manifest.encoding.many:
            raise UserError(
                f"`sampling={stage.config.sampling}` draws from one class after the other, but the"
                " images may have several: use natural"
            )
        if favours_rare and stage.config.class_weights == "balanced":
            terminal.warn(
                f"`sampling={stage.config.sampling}` and `class_weights=balanced` both favour rare"
                " classes: give one of them"
            )
    classifier.check_adapts(config.head)
    teacher.check(config, manifest.classes)
    monitor.build(config, manifest.encoding)
    run_calibration.check(config, len(manifest.classes), many=manifest.encoding.many)
    loggers.parse(config.log)
    chosen = _choose_runtime(config, cluster)
    if cluster.is_chief:
        terminal.say(chosen.explanation)
    else:
        terminal.say(f"worker {cluster.worker} of {cluster.workers}: worker 0 shows the progress")
        terminal.be_quiet(True)
    randomness.seed_everything(config.seed)
    run = resume.start(config, manifest, chosen.precision, chosen.xla)
    for stage in planned:
        losses.build(stage.config, run.resolved.shares, many=run.resolved.encoding.many)
        stage_models.check(run, stage)
    with (
        under(chosen.precision),
        cluster.strategy.scope(),
        randomness.collect_generators() as generators,
    ):
        built = run.build(first_weights=not first_weights.are_kept(run))
    size, many = built.features.output_shape[-1], run.resolved.encoding.many
    familiarity_fit.check(config, size, val_split.images, many=many)
    others = first_weights.take(run, built)
    for stage in planned:
        partition.check(built, stage.start)
    terminal.say(_describe(run, built, train_split, val_split, cluster))
    locked = run_folder.locked(run.folder) if cluster.is_chief else contextlib.nullcontext()
    with under(chosen.precision), locked:
        if cluster.is_chief:
            run.save()
            if others:
                run.save_first(built)
            trained_images.save(run, train_split, val_split, others)
        splits = train_split, val_split
        taught = teacher.load(config, train_split)
        targets = taught and taught.targets
        loop.Loop(run, built, generators, *splits, cluster, folder, callbacks, targets).fit()
        if cluster.is_chief:
            plain = chosen.precision == "float32" and cluster.strategy.num_replicas_in_sync == 1
            run_calibration.calibrate(run, val_split, built if plain else None)
            familiarity_fit.fit_run(run, val_split, built if plain else None)
            run.save(finished=True)


def _check_length(config: TrainConfig) -> None:
    """Raise UserError for a stage of no length."""
    if config.epochs < 1:
        raise UserError(
            f"`epochs={config.epochs}` trains nothing: give at least 1 (`describe` shows the model)"
        )
    if config.patience < 0:
        raise UserError(f"`patience={config.patience}`: give 0 or more")
    if config.limit < 0:
        raise UserError(f"`limit={config.limit}`: give 0 or more")
    if not 0 <= config.minutes < math.inf:
        raise UserError(f"`minutes={config.minutes:g}`: give 0 or more")


def _choose_runtime(config: TrainConfig, cluster: Cluster) -> Runtime:
    """Return precision and compiler, the same on all workers."""
    before = resume.begun(config.run_dir)
    begun = before.resolved.precision if before else ""
    head_only = all(stage.start == partition.HEAD for stage in stages.parse(config))
    chosen = runtime.choose(config.precision, config.xla, begun, head_only=head_only)
    precision, xla = cluster.agree((chosen.precision, chosen.xla))
    return dataclasses.replace(chosen, precision=precision, xla=xla)


def plain_model(config: TrainConfig, encoding: LabelEncoding) -> Classifier:
    """Return the classifier of these options, with random weights."""
    branches = [
        classifier.BackboneConfig(branch["name"], branch["size"], backbones.NO_WEIGHTS)
        for branch in resolve.branches(resolve.last_stage(config))
    ]
    return classifier.build(
        branches,
        encoding.classes,
        pooling=config.pooling,
        head=config.head,
        output=classifier.choose_output(config.output, encoding.classes, many=encoding.many),
        head_init=config.head_init,
        drop_path=config.drop_path,
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
    several = "; an image may have several classes: a sigmoid for each, and their mean binary loss"
    return (
        f"{names}: {built.model.count_params():,} parameters, on {train_split.count:,} images of"
        f" {len(run.resolved.classes)} classes ({train_split.name}), validated on"
        f" {val_split.images:,} ({val_split.name}){augmented}{shared}"
        f"{several if run.resolved.encoding.many else ''}"
    )
