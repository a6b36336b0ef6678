"""The training loop: stages, epochs, validation, best weights, and resuming."""

import csv
import dataclasses
import functools
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.input import pipeline, stateless_random
from tfpipe.model.classifier import Classifier, adapt
from tfpipe.model.partition import Partition, partition
from tfpipe.records.subset import Subset
from tfpipe.training import monitor, range_test, schedules, stage_models, stages
from tfpipe.training.callbacks import Callbacks
from tfpipe.training.checkpoints import Checkpoints
from tfpipe.training.cluster import Cluster
from tfpipe.training.inputs import Inputs, Targets
from tfpipe.training.log import Epoch
from tfpipe.training.loggers import Loggers
from tfpipe.training.profile import Profile
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.stage_models import StageModels
from tfpipe.training.stages import Stage
from tfpipe.training.steps import DivergenceError, Steps
from tfpipe.training.tensorboard_logger import TENSORBOARD
from tfpipe.training.time_limit import TimeLimit
from tfpipe.training.train_config import AUTO
from tfpipe.training.train_state import TrainState

# Give up a stage after going back this many times, each time with half the learning rate.
MAX_RETRIES = 5

# Minimum seconds between two saves of the best weights. A save takes up to 1 s, longer than an
# epoch on cached features. The checkpoint after each epoch has them too.
SAVE_EVERY_S = 10

# Minimum seconds between two lines about epochs, but for the first and the last one of a stage.
SHOW_EVERY_S = 2

BAD_BATCH = "nan_batch.csv"


class Loop:
    """Trains the classifier of one run, from its last checkpoint on.

    Every worker of a cluster runs the same loop and decides the same, as losses are sums over all
    workers.
    """

    def __init__(
        self,
        run: RunFolder,
        classifier: Classifier,
        generators: Sequence[tf.random.Generator],
        train_split: Subset,
        val_split: Subset,
        cluster: Cluster,
        folder: pathlib.Path,
        callbacks: Sequence[tf_keras.callbacks.Callback] = (),
        targets: Targets | None = None,
    ):
        """Prepare the training.

        The classifier is built in the scope of the cluster's strategy; `generators` are those of
        its random layers. All workers read the folder of `run`; this worker writes `folder`.
        `targets` are as for `Inputs`.
        """
        self._run, self._targets = run, targets
        with cluster.strategy.scope():
            self._models = StageModels(run, classifier, generators)
        self._train_split, self._val_split = train_split, val_split
        self._cluster = cluster
        self._own = dataclasses.replace(run, folder=folder)
        self._checkpoints = Checkpoints(run.last, cluster, self._own.last)
        self._log = Loggers(self._own, is_chief=cluster.is_chief)
        self._monitor = monitor.build(run.config, run.resolved.encoding)
        self._profile = Profile(folder / TENSORBOARD if run.config.profile else None)
        self._callback_scale = 1.0  # of the learning rate
        self._limit = TimeLimit(run.config.minutes, cluster)
        self._callbacks = Callbacks(
            callbacks,
            classifier.model,
            epochs=sum(stage.config.epochs for stage in run.stages),
            steps=pipeline.steps_per_epoch(train_split, run.config.batch_size),
        )

    def fit(self) -> None:
        """Train stage after stage, each until its last epoch or the end of its patience."""
        with self._log:
            self._fit()

    def _fit(self) -> None:
        self._own.last.mkdir(exist_ok=True)
        resume = self._find()
        before = self._state.epoch
        self._callbacks.begin()
        for stage in self._run.stages[self._state.stage :]:
            if self._callbacks.stopped:
                break
            if stage.index > self._state.stage:
                earlier = self._run.stages[stage.index - 1]
                if self._limit.is_over():
                    terminal.say(f"minutes={self._run.config.minutes:g}: no stage {stage.name}")
                    if size := self._models.note(earlier):
                        terminal.warn(f"the weights are those of stage {earlier.name}{size}")
                    break
                self._state.begin_stage(stage.index)
                if stage_models.sides_of(stage) != stage_models.sides_of(earlier):
                    self._state.forget_best()
                resume = False
            while True:
                try:
                    self._one_stage(stage, resume=resume)
                    break
                except DivergenceError as diverged:
                    self._go_back(stage, diverged)
                    resume = True
                except tf.errors.ResourceExhaustedError:
                    size = stage.config.batch_size
                    raise UserError(
                        f"`batch_size={size}` needs more memory than the device has: give another"
                        f" `run_dir` and `batch_size={max(1, size // 2)}`, with"
                        " `accumulate_steps=2` for the same updates"
                    ) from None
        self._callbacks.end()
        if self._cluster.is_chief:
            self._log.show()
        self._show_end(before)

    def _show_end(self, before: int) -> None:
        """Say which epoch is the best; `before` is the number of epochs at the start."""
        state, last = self._state, self._run.stages[self._state.stage]
        was = f"{self._run.folder} is complete already: " if state.epoch == before else ""
        terminal.say(
            f"{was}trained {state.epoch} epochs; the best is epoch {state.best_epoch + 1} with"
            f" val_loss {state.best_loss:.4f} and val_accuracy {state.best_accuracy:.4f}"
        )
        trained = state.epoch - state.first_epoch
        if (
            trained == last.config.epochs
            and state.best_epoch + 1 == state.epoch
            and not any(schedules.follows_epochs(each.config.schedule) for each in self._run.stages)
        ):
            of = f" of stage {last.name}" if len(self._run.stages) > 1 else ""
            longer = dataclasses.replace(self._run.config, epochs=2 * trained)
            how = f"the same command with --epochs={2 * trained} continues"
            if stages.parse(longer)[last.index].config.epochs == trained:  # --stages has its own
                how = "give the stage more in --stages, and another --run_dir"
            terminal.say(f"the last epoch{of} is the best, so more may be better: {how}")

    def _find(self) -> bool:
        """Take the state of the newest checkpoint; return whether there is one."""
        found = self._checkpoints.find()
        self._state = found or TrainState()
        self._log.begin(self._state.epoch)
        return found is not None

    def _one_stage(self, stage: Stage, *, resume: bool) -> None:
        state, config = self._state, stage.config
        if resume and state.finished(config.epochs, config.patience):
            return
        model = self._models.of(stage)
        run, classifier, generators = model.run, model.classifier, model.generators
        if stage.index:
            self._run.load_stage(classifier, stage.index - 1)
        with self._cluster.strategy.scope():
            first = stages.earliest(self._run.stages[stage.index :])
            earlier = partition(classifier, first) if first != stage.start else None
            batch_norm = config.batch_norm == "trained"
            parts = partition(classifier, stage.start, batch_norm=batch_norm)
            if len(self._run.stages) > 1:
                count = f"{parts.parameters:,} parameters{self._models.note(stage)}"
                terminal.say(f"stage {stage.name}: trained from {stage.start} on, {count}")
            splits = self._train_split, self._val_split
            inputs = Inputs(run, *splits, classifier, stage, parts, earlier, targets=self._targets)
            if not (resume or stage.index):
                adapt(classifier.head, inputs.features)

            def prepare(own: Stage) -> Steps:
                return Steps(run, own, classifier, generators, parts, inputs)

            if config.learning_rate == AUTO:
                stage = self._with_rate(stage, prepare, parts, inputs)
            steps = prepare(stage)
        self._callbacks.begin_stage(classifier.model, steps.state.optimizer)
        if resume:
            self._checkpoints.restore(steps.state)
            within = f" and {steps.done} steps" if steps.done else ""
            terminal.say(f"resuming {self._run.folder} after epoch {state.epoch}{within}")
        else:
            self._checkpoints.save(steps.state, state)
            if config.augment:
                self._log.images(stage.name, inputs.sample())
        steps.scale_rate(self._rate_scale(stage))
        self._epochs(stage, inputs, steps)

    def _with_rate(
        self, stage: Stage, prepare: Callable[[Stage], Steps], parts: Partition, inputs: Inputs
    ) -> Stage:
        """Return the stage with the rate of its range test, which runs if it has not yet."""
        if stage.label not in range_test.load(self._run.folder):
            first_epoch = self._state.first_epoch
            test = range_test.measure(stage, prepare, parts, inputs, first_epoch=first_epoch)
            terminal.say(f"{self._stage_prefix(stage)}{test}")
            if self._cluster.is_chief:
                range_test.save(self._run.folder, stage, test)
            self._cluster.barrier()
        return range_test.resolved(self._run.folder, stage)

    def _rate_scale(self, stage: Stage) -> float:
        """Return the scale of the stage's learning rates, by retries and reductions."""
        plateau = schedules.plateau(stage.config)
        reduced = plateau.factor**self._state.reductions if plateau else 1.0
        return 0.5**self._state.retries * reduced * self._callback_scale

    def _follow(self, steps: Steps, stage: Stage, rate: float | None) -> None:
        """Train on with a rate that a callback has set, and change it further as before."""
        if rate is None:
            return
        self._callback_scale = 1.0
        steps.scale_rate(self._rate_scale(stage))
        self._callback_scale = rate / steps.learning_rate
        steps.scale_rate(self._rate_scale(stage))

    def _go_back(self, stage: Stage, diverged: DivergenceError) -> None:
        """Go back to the last checkpoint; raise UserError if the options or retries forbid it."""
        state, stage = self._state, range_test.resolved(self._run.folder, stage)
        path = self._own.folder / BAD_BATCH
        bad = set(self._cluster.gathered(diverged.numbers).tolist())
        names = [
            fields.filename
            for fields in self._train_split.records()
            if stateless_random.example_id(fields.sha256) in bad
        ]
        with storage.atomic_file(path) as file:
            csv.writer(file, lineterminator="\n").writerows([["name"], *([name] for name in names)])
        what = (
            f"the loss is not finite at step {diverged.step} of epoch {state.epoch + 1}; {path}"
            " lists the images of that batch"
        )
        rate = stage.config.learning_rate * self._rate_scale(stage)
        if stage.config.on_nan == "stop" or state.retries == MAX_RETRIES:
            raise UserError(
                f"{what}: lower `learning_rate` (now {rate:g}) and give another `run_dir`; the last"
                " good checkpoint is kept"
            )
        retries = state.retries + 1
        self._find()
        self._state.retries = retries
        rate = stage.config.learning_rate * self._rate_scale(stage)
        terminal.warn(
            f"{what}: back to the last checkpoint, with a learning rate of {rate:g} from there"
        )

    def _epochs(self, stage: Stage, inputs: Inputs, steps: Steps) -> None:
        state, config = self._state, stage.config
        last = state.first_epoch + config.epochs
        plateau = schedules.plateau(config)
        batches = inputs.training(state.epoch, steps.done, last)
        # The file of the best weights may be older than the checkpoint.
        unsaved, saved = state.stage_best_epoch >= 0, -math.inf
        shown_at = -math.inf
        over = state.finished(config.epochs, config.patience)
        while not over:
            self._follow(steps, stage, self._callbacks.begin_epoch(state.epoch))
            result = self._one_epoch(stage, inputs, steps, batches)
            self._follow(steps, stage, self._callbacks.end_epoch(result))
            best_of_stage, best = state.add(
                result.val_loss, result.val_accuracy, result.cost, self._monitor.min_delta
            )
            if plateau and state.reduce_rate(plateau.patience):
                steps.scale_rate(self._rate_scale(stage))
            over = state.finished(config.epochs, config.patience)
            over = over or self._limit.is_over() or self._callbacks.stopped
            if best_of_stage:
                steps.keep_best()
                unsaved = True
            if unsaved and (over or time.monotonic() - saved >= SAVE_EVERY_S):
                with steps.best.swapped():
                    of_all = state.best_epoch == state.stage_best_epoch
                    built = self._models.of(stage).classifier
                    self._own.save_weights(built, stage.index, best=of_all)
                unsaved, saved = False, time.monotonic()
            self._log.add(result)
            steps.begin_epoch()
            self._checkpoints.save(steps.state, state)
            if over or time.monotonic() - shown_at >= SHOW_EVERY_S:
                star = "  best so far" if best else ""
                shown = ""
                if self._monitor.needs_predictions:
                    shown = f"  {self._monitor.name} {self._monitor.cost(result.cost):.4f}"
                terminal.say(f"{self._label(stage, state.epoch)}  {result}{shown}{star}")
                shown_at = time.monotonic()
            if self._profile.verdict:
                terminal.say(self._profile.verdict)
                self._profile.verdict = ""

    def _one_epoch(self, stage: Stage, inputs: Inputs, steps: Steps, batches) -> Epoch:
        state, config = self._state, stage.config
        start = saved = time.monotonic()
        before = steps.done
        label, note = self._label(stage, state.epoch + 1), ""
        left, images = inputs.images - before * config.batch_size, 0
        with terminal.progress(label, left) as advance:
            watched = self._profile.watch(self._limit.cut(batches), inputs.steps - before)
            losses = steps.train(watched)
            if state.epoch == state.first_epoch and not before:
                losses = itertools.chain([next(losses)], losses)
                self._log.graph(stage.name, steps.graph)
            for loss in self._callbacks.batches(losses, before, inputs.steps):
                if loss is not None:
                    note = f"loss {loss:.4f}  input wait {self._profile.waited:.0%}"
                more = min(config.batch_size, left - images)
                images += more
                advance(more, note)
                if self._is_time(saved, config.checkpoint_minutes, loss) and steps.is_whole():
                    self._checkpoints.save(steps.state, state)
                    saved = time.monotonic()
        loss, accuracy = steps.means()
        trained = time.monotonic() - start
        began = time.monotonic()
        validating = terminal.progress(f"{label} validating", inputs.validation_images)
        with validating as advance, steps.averaged():
            validate = functools.partial(steps.validate, advance)
            val_loss, val_accuracy, monitored = self._callbacks.validated(validate)
        self._limit.validating_s = time.monotonic() - began
        if not (math.isfinite(val_loss) and math.isfinite(monitored)):
            raise DivergenceError(steps.done, np.zeros(0, np.int64))
        return Epoch(
            epoch=state.epoch + 1,
            stage=stage.name,
            loss=loss,
            accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=steps.learning_rate,
            images_per_s=images / trained,
            input_wait=self._profile.waited,
            seconds=time.monotonic() - start,
            cost=self._monitor.cost(monitored),
        )

    def _is_time(self, saved: float, minutes: float, loss: float | None) -> bool:
        """Return whether a checkpoint is due, by the chief's clock.

        Several workers ask for it only at steps that read the loss, where they wait anyway.
        """
        if self._cluster.workers > 1 and loss is None:
            return False
        return self._cluster.agree(time.monotonic() - saved >= 60 * minutes)

    def _stage_prefix(self, stage: Stage) -> str:
        return f"{stage.name} " if len(self._run.stages) > 1 else ""

    def _label(self, stage: Stage, epoch: int) -> str:
        name = self._stage_prefix(stage)
        return f"{name}epoch {epoch - self._state.first_epoch}/{stage.config.epochs}"
