"""Compiled steps of a stage, in training and in validation."""

import collections
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import tensorflow as tf

from tfpipe.model.classifier import Classifier
from tfpipe.model.partition import Partition
from tfpipe.training import averaging, losses, randomness
from tfpipe.training import monitor as monitors
from tfpipe.training.cluster import Cluster, joined, summed
from tfpipe.training.inputs import Batch, Inputs
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.stages import Stage
from tfpipe.training.update import Update

# Steps between two readings of the loss. Each reading waits for the device.
READ_EVERY = 10


class DivergenceError(Exception):
    """The loss of a step is not finite; `numbers` are the example ids of the batch's images."""

    def __init__(self, step: int, numbers: np.ndarray):
        super().__init__(step)
        self.step = step
        self.numbers = numbers


class Steps:
    """The compiled steps, and the state that they change.

    Build it in the scope of the tf.distribute strategy, whose replicas share each batch.

    Attributes:
        best: weights of the stage's best epoch; the averages, if weights are averaged.
        graph: graph of a training step, after the first one.
        state: what a checkpoint saves.
    """

    def __init__(
        self,
        run: RunFolder,
        stage: Stage,
        classifier: Classifier,
        generators: Sequence[tf.random.Generator],
        split: Partition,
        inputs: Inputs,
    ):
        """Prepare a stage's steps; nothing is compiled yet."""
        config = stage.config
        self._strategy = tf.distribute.get_strategy()
        self._batch_size = config.batch_size
        self._classifier, self._inputs = classifier, inputs
        self._variables = split.trained.trainable_variables
        self._update = Update(
            config,
            self._variables,
            backbone=split.backbone,
            steps=inputs.steps,
            float16=run.resolved.precision == "mixed_float16",
        )
        self._monitor = monitors.build(config, run.resolved.encoding)
        self._encoding = run.resolved.encoding
        self._loss = losses.build(config, run.resolved.shares, many=self._encoding.many)
        floats = [v for v in split.trained.variables if v.dtype.is_floating]
        per_epoch = math.ceil(inputs.steps / config.accumulate_steps)
        self._average = averaging.build(config.average, floats, per_epoch)
        self.best = averaging.WeightsSnapshot(floats)
        self._done = tf.Variable(0, dtype=tf.int64, trainable=False)  # steps of the epoch
        self._bad = tf.Variable(-1, dtype=tf.int64, trainable=False)  # the first bad one
        self._totals = tf.Variable(tf.zeros([3]), trainable=False)  # loss, correct, images
        randomness.reseed(generators, config.seed, stage.index)
        self.state = tf.train.Checkpoint(
            model=split.trained,
            optimizer=self._update.optimizer,
            best=self.best,
            random=list(generators),
            done=self._done,
            totals=self._totals,
            **({"average": self._average} if self._average else {}),
        )
        self.graph: tf.Graph | None = None
        self._recent: collections.deque[np.ndarray] = collections.deque(maxlen=READ_EVERY)
        # XLA cannot compile the exchange between devices, so with several only the part before it.
        several = self._strategy.num_replicas_in_sync > 1
        xla = run.resolved.xla or None
        if xla and several:
            compile_it = functools.partial(tf.function, autograph=False, jit_compile=True)
            self._differentiate = compile_it(self._differentiate)
            self._evaluate = compile_it(self._evaluate)
        compiled = None if several else xla
        # Two functions: the older optimizers create variables in the first call of one.
        self._train_step = {
            due: self._on_replicas(functools.partial(self._train_one, due=due), compiled)
            for due in (False, True)
        }
        self._validate_step = self._on_replicas(self._validate_one, compiled)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return self._update.learning_rate

    def scale_rate(self, value: float) -> None:
        """Multiply all learning rates by a value, from the next update on."""
        self._update.scale_rate(value)

    @property
    def done(self) -> int:
        """Number of finished steps of the epoch."""
        return int(self._done.numpy())

    def is_whole(self) -> bool:
        """Return whether the training can resume from `state`; raise DivergenceError if it is bad.

        It cannot between two updates, because checkpoints have no accumulated gradients.
        """
        step = self.done
        self._check(step)
        return self._update.due(step)

    def begin_epoch(self) -> None:
        """Reset the counts. Do not call it for a resumed epoch."""
        self._totals.assign(tf.zeros([3]))
        self._done.assign(0)
        self._update.reset()

    def train(self, batches: Iterator[Batch]) -> Iterator[float | None]:
        """Train on the rest of an epoch's batches.

        Yields:
            After each step the epoch's mean loss so far, or None if it was not read.

        Raises:
            DivergenceError: a loss is not finite, so the weights are bad.
        """
        step = self.done
        for batch in batches:
            step += 1
            self._recent.append(np.asarray(batch["example_id"]))
            self._train_step[self._update.due(step)](_for_step(batch))
            loss = None
            if step % READ_EVERY == 0 or step == self._inputs.steps:
                loss, _ = self.means()
                self._check(step)
            yield loss
        self._check(step)

    def sweep(self, batches: Iterator[Batch], rates: Iterable[float]) -> Iterator[float]:
        """Train one step at each rate, with the loss of the step as the result."""
        for batch, rate in zip(filter(None, batches), rates, strict=False):
            self.scale_rate(rate)
            self._totals.assign(tf.zeros([3]))
            self._train_step[True](_for_step(batch))
            yield self.means()[0]

    def validate(self, advance: Callable) -> tuple[float, float, float]:
        """Return the mean cross-entropy in nats, the accuracy, and the monitored measure."""
        kept = self._totals.numpy()
        self._totals.assign(tf.zeros([3]))
        parts = []
        for batch in self._inputs.validation():
            logits = self._validate_step(_for_step(batch))
            if self._monitor.needs_predictions:
                logits, labels, weights = (
                    joined(self._strategy, each)
                    for each in (logits, batch["label"], batch["sample_weight"])
                )
                found = self._classifier.probabilities(logits)
                parts.append((found.numpy(), labels.numpy(), weights.numpy()))
            advance(self._batch_size)
        loss, accuracy = self.means()
        self._totals.assign(kept)
        return loss, accuracy, self._monitor.of(loss, *self._gathered(parts))

    def _gathered(self, parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray | None, ...]:
        """Return the probabilities and labels of all workers' batches, without padding."""
        if not parts:
            return None, None
        probabilities, labels, weights = (np.concatenate(each) for each in zip(*parts, strict=True))
        cluster = Cluster(self._strategy)
        bits = probabilities.view(np.int32).astype(np.int64).ravel()
        real, flat, bits = (
            cluster.gathered(each)
            for each in (np.int64(weights > 0), np.int64(labels).ravel(), bits)
        )
        every = bits.astype(np.int32).view(np.float32).reshape(len(real), -1)
        return every[real > 0], flat.reshape(len(real), *labels.shape[1:])[real > 0]

    def keep_best(self) -> None:
        """Keep the weights that were just validated as the best ones."""
        with self.averaged():
            self.best.update(self.done)

    def averaged(self) -> AbstractContextManager:
        """Swap in the averages of the weights, if there are any."""
        return self._average.swapped() if self._average else nullcontext()

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy since the start of the epoch."""
        loss, correct, images = self._totals.numpy().tolist()
        return loss / max(images, 1), correct / max(images, 1)

    def _check(self, step: int) -> None:
        bad = int(self._bad.numpy())
        if bad >= 0:
            raise DivergenceError(bad, self._recent[bad - step - 1])

    def _on_replicas(
        self, step: Callable[[Batch], tf.Tensor | None], compiled: bool | None
    ) -> Callable:
        def run(batch: Batch) -> tf.Tensor | None:
            return self._strategy.run(step, args=(batch,))

        return tf.function(run, autograph=False, jit_compile=compiled)

    def _train_one(self, batch: Batch, *, due: bool) -> None:
        self.graph = tf.compat.v1.get_default_graph()  # being traced
        gradients, sums = self._differentiate(batch)
        self._update.add(gradients, due=due)
        if self._average and due:
            self._average.update(self._update.optimizer.iterations)
        sums = summed(sums)
        self._totals.assign_add(sums)
        self._done.assign_add(1)
        first = tf.logical_and(self._bad < 0, tf.logical_not(tf.math.is_finite(sums[0])))
        self._bad.assign(tf.where(first, self._done, self._bad))

    def _differentiate(self, batch: Batch) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Return the gradients of a replica's part of the scaled loss, and its sums."""
        with tf.GradientTape() as tape:
            logits, labels = self._inputs.forward(batch, training=True)
            each = self._loss(self._classifier, labels, logits)
            mean = tf.reduce_sum(each * batch["sample_weight"]) / self._batch_size
            scaled = self._update.scaled(mean)
        return tape.gradient(scaled, self._variables), self._sums(batch, logits, each)

    def _validate_one(self, batch: Batch) -> tf.Tensor:
        logits, sums = self._evaluate(batch)
        self._totals.assign_add(summed(sums))
        return logits

    def _evaluate(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a replica's logits and sums."""
        logits, labels = self._inputs.forward(batch, training=False)
        return logits, self._sums(batch, logits, self._classifier.losses(labels, logits))

    def _sums(self, batch: Batch, logits: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
        """Return the sum of the losses, the correct images, and all images: float32 [3].

        An image that may have several classes is correct if all of them are, at probability 0.5.
        """
        real = tf.cast(batch["sample_weight"] > 0, tf.float32)
        probabilities = self._classifier.probabilities(logits)
        if self._encoding.many:
            right = tf.reduce_all((probabilities >= 0.5) == (batch["label"] >= 0.5), -1)
        else:
            right = tf.argmax(probabilities, -1) == tf.cast(batch["label"], tf.int64)
        correct = tf.cast(right, tf.float32)
        return tf.stack([tf.reduce_sum(v) for v in (losses * real, correct * real, real)])


def _for_step(batch: Batch) -> Batch:
    """Return the fields of a batch that a step takes."""
    return {key: value for key, value in batch.items() if key != "example_id"}
