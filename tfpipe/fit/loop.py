"""The training loop: steps, validation, the best weights, and going on where it stopped."""

import csv
import dataclasses
import functools
import math
import pathlib
import time

import tensorflow as tf

from tfpipe import storage, terminal
from tfpipe.errors import UserError
from tfpipe.fit import inputs, losses, runtime
from tfpipe.fit.profile import Profile
from tfpipe.fit.run import Run
from tfpipe.fit.update import Update
from tfpipe.model.classifier import Classifier

TENSORBOARD = "tensorboard"  # folder in the run's

# How many checkpoints of the whole state are kept: the newest may be damaged.
KEPT = 2
# Steps between two readings of the running loss; each one waits for the device.
READ_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One line of the log; a field is a column.

    `loss` is what the training minimises, `val_loss` the plain cross-entropy in nats, whatever is
    minimised. `learning_rate` is the rate at the epoch's end.

    `input_wait` is the share of the training time in which no batch was there to go on with.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_s: float
    input_wait: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  val_loss {self.val_loss:.4f}"
            f"  val_accuracy {self.val_accuracy:.4f}  {self.images_per_s:,.0f} images/s"
            f"  input wait {self.input_wait:.0%}  {self.seconds:.1f} s"
        )


class Loop:
    """Trains the classifier of one run, from its last checkpoint on."""

    def __init__(self, run: Run, classifier: Classifier, data: inputs.ImageInputs):
        """Prepares the state; `data` is what `tfpipe.fit.inputs.make` returns."""
        self._run = run
        self._config = run.config
        self._classifier = classifier
        self._data = data
        trained = classifier.model if run.config.trainable == "all" else classifier.head
        classifier.features.trainable = run.config.trainable == "all"
        self._variables = trained.trainable_variables
        self._update = Update(
            run.config,
            self._variables,
            steps=data.steps,
            float16=run.resolved.precision == "mixed_float16",
        )
        self._loss = losses.build(run.config, run.resolved.shares)
        self._totals = tf.Variable(tf.zeros([3]), trainable=False)  # loss, right, samples
        self._state = tf.train.Checkpoint(
            model=trained,
            optimizer=self._update.optimizer,
            random=runtime.random_state(classifier.model),
            epoch=tf.Variable(0, dtype=tf.int64),
            best_epoch=tf.Variable(-1, dtype=tf.int64),
            best_loss=tf.Variable(math.inf, dtype=tf.float64),
        )
        self._checkpoints = tf.train.CheckpointManager(
            self._state, str(run.last), max_to_keep=KEPT, checkpoint_name="state"
        )
        self._profile = Profile(run.folder / TENSORBOARD if run.config.profile else None)
        compiled = {"jit_compile": True} if run.resolved.xla else {}
        # Two functions: the older optimizers make their variables in the first call of one.
        self._train_step = {
            due: tf.function(functools.partial(self._train_one, due=due), **compiled)
            for due in (False, True)
        }
        self._validate_step = tf.function(self._validate_one, **compiled)

    def fit(self) -> None:
        """Trains until the last epoch, or until `patience` epochs brought no lower loss."""
        self._restore()
        log = Log(self._run.folder, self._state.epoch.numpy())
        batches = None
        while not self._finished():
            epoch = int(self._state.epoch.numpy())
            batches = batches or self._data.training(epoch)
            result = self._one_epoch(epoch, batches)
            improved = result.val_loss < self._state.best_loss.numpy()
            if improved:
                self._save_best()
                self._state.best_loss.assign(result.val_loss)
                self._state.best_epoch.assign(epoch)
            self._state.epoch.assign_add(1)
            self._checkpoints.save()
            log.add(result)
            star = "  best so far" if improved else ""
            terminal.say(f"epoch {epoch + 1}/{self._config.epochs}  {result}{star}")
            if self._profile.verdict:
                terminal.say(self._profile.verdict)
                self._profile.verdict = ""
        best = int(self._state.best_epoch.numpy()) + 1
        terminal.say(
            f"trained {int(self._state.epoch.numpy())} epochs; the best is epoch {best} with"
            f" val_loss {self._state.best_loss.numpy():.4f}"
        )

    def _finished(self) -> bool:
        epoch = int(self._state.epoch.numpy())
        waited = epoch - 1 - int(self._state.best_epoch.numpy())
        return epoch >= self._config.epochs or (epoch > 0 and waited >= self._config.patience)

    def _one_epoch(self, epoch: int, batches) -> Epoch:
        start = time.monotonic()
        self._totals.assign(tf.zeros([3]))
        self._update.reset()
        images = self._data.steps * self._config.batch_size
        label = f"epoch {epoch + 1}/{self._config.epochs}"
        note = ""
        with terminal.progress(label, images) as advance:
            watched = self._profile.watch(batches, self._data.steps)
            for step, batch in enumerate(watched, start=1):
                self._train_step[self._update.due(step)](batch)
                if step % READ_EVERY == 0 or step == self._data.steps:
                    loss = self._mean()[0]
                    if not math.isfinite(loss):
                        raise UserError(
                            f"the loss became {loss} by step {step} of epoch {epoch + 1}: lower"
                            f" --learning_rate (now {self._config.learning_rate:g})"
                        )
                    note = f"loss {loss:.4f}"
                advance(self._config.batch_size, note)
        loss, accuracy = self._mean()
        trained = time.monotonic() - start
        self._totals.assign(tf.zeros([3]))
        with terminal.progress(f"{label} validating", self._data.validation_images) as advance:
            for batch in self._data.validation():
                self._validate_step(batch)
                advance(self._config.batch_size)
        val_loss, val_accuracy = self._mean()
        return Epoch(
            epoch=epoch + 1,
            loss=loss,
            accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=self._update.learning_rate,
            images_per_s=images / trained,
            input_wait=self._profile.waited,
            seconds=time.monotonic() - start,
        )

    def _train_one(self, batch: inputs.Batch, *, due: bool) -> None:
        with tf.GradientTape() as tape:
            logits, labels = self._data.forward(batch, training=True)
            each = self._loss(self._classifier, labels, logits)
            scaled = self._update.scaled(tf.reduce_mean(each))
        self._update.add(tape.gradient(scaled, self._variables), due=due)
        self._count(batch, logits, each)

    def _validate_one(self, batch: inputs.Batch) -> None:
        logits, labels = self._data.forward(batch, training=False)
        self._count(batch, logits, self._classifier.losses(labels, logits))

    def _count(self, batch: inputs.Batch, logits: tf.Tensor, losses: tf.Tensor) -> None:
        weight = batch["weight"]
        chosen = tf.argmax(self._classifier.probabilities(logits), -1)
        right = tf.cast(chosen == tf.cast(batch["label"], tf.int64), tf.float32)
        sums = [losses * weight, right * weight, weight]
        self._totals.assign_add(tf.stack([tf.reduce_sum(value) for value in sums]))

    def _mean(self) -> tuple[float, float]:
        loss, right, samples = self._totals.numpy().tolist()
        return loss / samples, right / samples

    def _save_best(self) -> None:
        path = self._run.best_weights
        # Keras chooses the format by the ending, so the partial file has the same one.
        partial = path.with_name(f"{storage.PARTIAL_PREFIX}{path.name}")
        self._classifier.model.save_weights(partial)
        partial.replace(path)

    def _restore(self) -> None:
        newest = self._checkpoints.latest_checkpoint
        if newest is None:
            return
        self._state.restore(newest).expect_partial()
        if not self._finished():
            terminal.say(
                f"resuming {self._run.folder} after epoch {int(self._state.epoch.numpy())}"
            )


class Log:
    """The run's `log.csv` and its twin for TensorBoard."""

    def __init__(self, folder: pathlib.Path, epochs: int):
        """Opens the logs; lines beyond the first `epochs`, which will be run again, are dropped."""
        self._path = folder / "log.csv"
        self._rows: list[dict[str, object]] = []
        if self._path.exists():
            with open(self._path, newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]
        self._board = tf.summary.create_file_writer(str(folder / TENSORBOARD))

    def add(self, epoch: Epoch) -> None:
        """Adds a line; the file is whole at any moment."""
        values = dataclasses.asdict(epoch)
        self._rows.append(values)
        with storage.atomic_file(self._path) as file:
            writer = csv.DictWriter(file, list(values), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        with self._board.as_default(step=epoch.epoch):
            for name, value in values.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        self._board.flush()
