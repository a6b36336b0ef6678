"""The training loop: stages, epochs, validation, the best weights, going on where it stopped."""

import csv
import dataclasses
import itertools
import math
import pathlib
import time

import numpy as np
import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.input import stateless_random
from tfpipe.model.classifier import Classifier
from tfpipe.model.split import split
from tfpipe.records.part import Part
from tfpipe.training import stages
from tfpipe.training.inputs import Inputs
from tfpipe.training.log import TENSORBOARD, Epoch, Log
from tfpipe.training.profile import Profile
from tfpipe.training.progress import Checkpoints, Progress
from tfpipe.training.run import Run
from tfpipe.training.stages import Stage
from tfpipe.training.steps import DivergenceError, Steps
from tfpipe.training.strategy import Cluster

# How often a stage is set back before it is given up, halving the learning rate each time.
MAX_REWINDS = 5

# Seconds between two files of the best weights, which takes Keras up to a second, and an epoch on
# cached features less. The checkpoint after each epoch has them too.
SAVE_EVERY_S = 10

BAD_BATCH = "nan_batch.csv"


class Loop:
    """Trains the classifier of one run, from its last checkpoint on.

    Every worker of a cluster runs the same loop and decides the same, as losses are sums over all
    of them.
    """

    def __init__(
        self,
        run: Run,
        classifier: Classifier,
        train: Part,
        val: Part,
        cluster: Cluster | None = None,
        folder: pathlib.Path | None = None,
    ):
        """Prepares to train on some records and to validate on others.

        Args:
            run: whose folder all workers read.
            classifier: of the run, built in the scope of the cluster's strategy.
            train: the records to train on.
            val: those to validate on.
            cluster: of the workers; None for this process alone, on one device.
            folder: where this one writes; None for the run's.
        """
        self._run, self._classifier = run, classifier
        self._train, self._val = train, val
        self._cluster = cluster or Cluster(tf.distribute.get_strategy())
        self._own = dataclasses.replace(run, folder=folder or run.folder)
        self._checkpoints = Checkpoints(run.last, self._cluster, self._own.last)
        self._profile = Profile(self._own.folder / TENSORBOARD if run.config.profile else None)

    def fit(self) -> None:
        """Trains stage after stage, each until its last epoch or its patience is over.

        Raises:
            UserError: a loss is no number, or a file cannot be written.
        """
        self._own.last.mkdir(exist_ok=True)
        resume = self._find()
        for stage in self._run.stages[self._progress.stage :]:
            if stage.index > self._progress.stage:
                self._progress.begin_stage(stage.index)
                resume = False
            while True:
                try:
                    self._one_stage(stage, resume=resume)
                    break
                except DivergenceError as diverged:
                    self._set_back(stage, diverged)
                    resume = True
                except tf.errors.ResourceExhaustedError:
                    half = max(1, self._run.config.batch_size // 2)
                    raise UserError(
                        f"--batch_size={self._run.config.batch_size} needs more memory than the"
                        f" device has: give another --run_dir and --batch_size={half}, with"
                        " --accumulate_steps=2 for the same updates"
                    ) from None
        if self._cluster.is_chief:
            self._log.show()
        progress = self._progress
        terminal.say(
            f"trained {progress.epoch} epochs; the best is epoch {progress.best_epoch + 1} with"
            f" val_loss {progress.best_loss:.4f} and val_accuracy {progress.best_accuracy:.4f}"
        )

    def _find(self) -> bool:
        """Takes the progress of the newest checkpoint; returns whether there is one."""
        found = self._checkpoints.find()
        self._progress = found or Progress()
        self._log = Log(self._own.folder, self._progress.epoch)
        return found is not None

    def _one_stage(self, stage: Stage, *, resume: bool) -> None:
        progress, config = self._progress, stage.config
        if resume and progress.finished(config.epochs, config.patience):
            return
        if stage.index:
            self._run.load_stage(self._classifier, stage.index - 1)
        if progress.rewinds:
            rate = config.learning_rate * 0.5**progress.rewinds
            stage = dataclasses.replace(
                stage, config=dataclasses.replace(config, learning_rate=rate)
            )
        with self._cluster.strategy.scope():
            first = stages.earliest(self._run.stages[stage.index :])
            earlier = split(self._classifier, first) if first != stage.start else None
            parts = split(self._classifier, stage.start, batch_norm=config.batch_norm == "trained")
            if len(self._run.stages) > 1:
                count = f"{parts.parameters:,} parameters"
                terminal.say(f"stage {stage.name}: trained from {stage.start} on, {count}")
            inputs = Inputs(
                self._run, self._train, self._val, self._classifier, stage, parts, earlier
            )
            steps = Steps(self._run, stage, self._classifier, parts, inputs)
        if resume:
            self._checkpoints.restore(steps.state)
            within = f" and {steps.done} steps" if steps.done else ""
            terminal.say(f"resuming {self._run.folder} after epoch {progress.epoch}{within}")
        else:
            self._checkpoints.save(steps.state, progress)
            if config.augment:
                self._log.images(stage.name, inputs.sample())
        self._epochs(stage, inputs, steps)

    def _set_back(self, stage: Stage, diverged: DivergenceError) -> None:
        """Goes back to the last checkpoint; raises UserError if that is not wanted or no help."""
        progress = self._progress
        path = self._own.folder / BAD_BATCH
        bad = set(self._cluster.gathered(diverged.numbers).tolist())
        names = [
            f.filename
            for f in self._train.records()
            if stateless_random.example_id(f.sha256) in bad
        ]
        with storage.atomic_file(path) as file:
            csv.writer(file, lineterminator="\n").writerows([["name"], *([name] for name in names)])
        what = (
            f"the loss is no number at step {diverged.step} of epoch {progress.epoch + 1}, whose"
            f" batch is in {path}"
        )
        rate = stage.config.learning_rate * 0.5**progress.rewinds
        if stage.config.on_nan == "stop" or progress.rewinds == MAX_REWINDS:
            raise UserError(
                f"{what}: lower --learning_rate (now {rate:g}) and give another --run_dir; the last"
                " good state is kept"
            )
        rewinds = progress.rewinds + 1
        self._find()
        self._progress.rewinds = rewinds
        terminal.warn(
            f"{what}: back to the last checkpoint, and on with a learning rate of {rate / 2:g}"
        )

    def _epochs(self, stage: Stage, inputs: Inputs, steps: Steps) -> None:
        progress, config = self._progress, stage.config
        last = progress.first_epoch + config.epochs
        batches = inputs.training(progress.epoch, steps.done, last)
        # After a checkpoint the file may be older than the copy in it.
        unsaved, saved = progress.stage_best_epoch >= 0, -math.inf
        over = progress.finished(config.epochs, config.patience)
        while not over:
            result = self._one_epoch(stage, inputs, steps, batches)
            best_of_stage, best = progress.add(result.val_loss, result.val_accuracy)
            over = progress.finished(config.epochs, config.patience)
            if best_of_stage:
                steps.keep_best()
                unsaved = True
            if unsaved and (over or time.monotonic() - saved >= SAVE_EVERY_S):
                with steps.best.swapped():
                    of_all = progress.best_epoch == progress.stage_best_epoch
                    self._own.save_weights(self._classifier, stage.index, best=of_all)
                unsaved, saved = False, time.monotonic()
            self._log.add(result)
            steps.begin_epoch()
            self._checkpoints.save(steps.state, progress)
            star = "  best so far" if best else ""
            terminal.say(f"{self._label(stage, progress.epoch)}  {result}{star}")
            if self._profile.verdict:
                terminal.say(self._profile.verdict)
                self._profile.verdict = ""

    def _one_epoch(self, stage: Stage, inputs: Inputs, steps: Steps, batches) -> Epoch:
        progress, config = self._progress, stage.config
        start = saved = time.monotonic()
        before = steps.done
        label, note = self._label(stage, progress.epoch + 1), ""
        left, images = inputs.images - before * config.batch_size, 0
        with terminal.progress(label, left) as advance:
            watched = self._profile.watch(batches, inputs.steps - before)
            losses = steps.train(watched)
            if progress.epoch == progress.first_epoch and not before:
                losses = itertools.chain([next(losses)], losses)
                self._log.graph(stage.name, steps.graph)
            for loss in losses:
                if loss is not None:
                    note = f"loss {loss:.4f}  input wait {self._profile.waited:.0%}"
                more = min(config.batch_size, left - images)
                images += more
                advance(more, note)
                if self._is_time(saved, config.checkpoint_minutes, loss) and steps.is_whole():
                    self._checkpoints.save(steps.state, progress)
                    saved = time.monotonic()
        loss, accuracy = steps.means()
        trained = time.monotonic() - start
        validating = terminal.progress(f"{label} validating", inputs.validation_images)
        with validating as advance, steps.averaged():
            val_loss, val_accuracy = steps.validate(advance)
        if not math.isfinite(val_loss):
            raise DivergenceError(steps.done, np.zeros(0, np.int64))
        return Epoch(
            epoch=progress.epoch + 1,
            stage=stage.name,
            loss=loss,
            accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=steps.learning_rate,
            images_per_s=images / trained,
            input_wait=self._profile.waited,
            seconds=time.monotonic() - start,
        )

    def _is_time(self, saved: float, minutes: float, loss: float | None) -> bool:
        """Tells whether a checkpoint is due, by the chief's clock.

        Several workers ask for it only where a loss was read, and they have waited anyway.
        """
        if self._cluster.workers > 1 and loss is None:
            return False
        return self._cluster.agree(time.monotonic() - saved >= 60 * minutes)

    def _label(self, stage: Stage, epoch: int) -> str:
        name = f"{stage.name} " if len(self._run.stages) > 1 else ""
        return f"{name}epoch {epoch - self._progress.first_epoch}/{stage.config.epochs}"
