"""The steps of a stage: what happens to one batch, in training and in validation."""

import collections
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import tensorflow as tf

from tfpipe.model.classifier import Classifier
from tfpipe.model.split import Split
from tfpipe.training import average, losses, parameter_server, runtime
from tfpipe.training.inputs import Batch, Inputs
from tfpipe.training.run import Run
from tfpipe.training.stages import Stage
from tfpipe.training.strategy import share_out, summed
from tfpipe.training.update import Update

# Steps between two readings of the running loss; each one waits for the device.
READ_EVERY = 10


class DivergenceError(Exception):
    """The loss of a step is no number.

    Attributes:
        step: of the epoch, from 1.
        numbers: of the batch's images (`stateless_random.example_id`).
    """

    def __init__(self, step: int, numbers: np.ndarray):
        super().__init__(step)
        self.step = step
        self.numbers = numbers


class Steps:
    """The compiled steps, and the state that they change.

    Made in the scope of a tf.distribute strategy, if there is one, whose replicas share each batch.

    Attributes:
        best: the weights of the stage's best epoch; the averages, if weights are averaged.
        graph: of a step of training, once there was one.
        state: what goes into a checkpoint.
    """

    def __init__(
        self, run: Run, stage: Stage, classifier: Classifier, split: Split, inputs: Inputs
    ):
        """Prepares a stage's steps; nothing is compiled yet."""
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
        self._loss = losses.build(config, run.resolved.shares)
        floats = [v for v in split.trained.variables if v.dtype.is_floating]
        per_epoch = math.ceil(inputs.steps / config.accumulate_steps)
        self._average = average.build(config.average, floats, per_epoch)
        self.best = average.Copy(floats)
        self._done = tf.Variable(0, dtype=tf.int64, trainable=False)  # steps of the epoch
        self._bad = tf.Variable(-1, dtype=tf.int64, trainable=False)  # the first without a loss
        self._totals = tf.Variable(tf.zeros([3]), trainable=False)  # loss, right, samples
        self.state = tf.train.Checkpoint(
            model=split.trained,
            optimizer=self._update.optimizer,
            best=self.best,
            random=runtime.random_state(classifier.model, config.seed, stage.index),
            done=self._done,
            totals=self._totals,
            **({"average": self._average} if self._average else {}),
        )
        self.graph: tf.Graph | None = None
        self._recent: collections.deque[np.ndarray] = collections.deque(maxlen=READ_EVERY)
        # XLA compiles no exchange between devices: with several, what comes before it.
        several = self._strategy.num_replicas_in_sync > 1
        xla = run.resolved.xla or None
        if xla and several:
            self._differentiate = tf.function(
                self._differentiate, autograph=False, jit_compile=True
            )
            self._evaluate = tf.function(self._evaluate, autograph=False, jit_compile=True)
        compiled = None if several else xla
        # Two functions: the older optimizers make their variables in the first call of one.
        self._train_step = {
            due: self._on_replicas(functools.partial(self._train_one, due=due), compiled)
            for due in (False, True)
        }
        self._validate_step = self._on_replicas(self._validate_one, compiled)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return self._update.learning_rate

    @property
    def done(self) -> int:
        """How many steps of the epoch are over."""
        parameter_server.join(self._strategy)
        return int(self._done.numpy())

    def is_whole(self) -> bool:
        """Returns whether the training can go on from `state` as if nothing had happened.

        Not between two updates, as accumulated gradients are not kept.

        Raises:
            DivergenceError: the state is spoilt.
        """
        step = self.done
        self._check(step)
        return self._update.due(step)

    def begin_epoch(self) -> None:
        """Starts counting anew; not for an epoch that goes on."""
        self._totals.assign(tf.zeros([3]))
        self._done.assign(0)
        self._update.reset()

    def train(self, batches: Iterator[Batch]) -> Iterator[float | None]:
        """Trains on the rest of an epoch's batches.

        Yields:
            After each step the epoch's mean loss so far, or None where it was not read.

        Raises:
            DivergenceError: a loss is no number. The weights are spoilt then.
        """
        step = self.done
        for batch in batches:
            step += 1
            self._recent.append(np.asarray(batch["example_id"]))
            self._train_step[self._update.due(step)](self._for_replicas(batch))
            loss = None
            if step % READ_EVERY == 0 or step == self._inputs.steps:
                loss, _ = self.means()
                self._check(step)
            yield loss
        self._check(step)

    def validate(self, advance: Callable) -> tuple[float, float]:
        """Returns the mean cross-entropy in nats and the accuracy on the validation images."""
        kept = self._totals.numpy()
        self._totals.assign(tf.zeros([3]))
        for batch in self._inputs.validation():
            self._validate_step(self._for_replicas(batch))
            advance(self._batch_size)
        found = self.means()
        self._totals.assign(kept)
        return found

    def keep_best(self) -> None:
        """Takes the weights, as they were validated, for those of the best epoch."""
        with self.averaged():
            self.best.update(self.done)

    def averaged(self) -> AbstractContextManager:
        """Has the averages of the weights in their place, where there are any."""
        return self._average.swapped() if self._average else nullcontext()

    def means(self) -> tuple[float, float]:
        """Returns the mean loss and the accuracy of the samples since the start of the epoch."""
        parameter_server.join(self._strategy)
        loss, right, samples = self._totals.numpy().tolist()
        return loss / max(samples, 1), right / max(samples, 1)

    def _check(self, step: int) -> None:
        bad = int(self._bad.numpy())
        if bad >= 0:
            raise DivergenceError(bad, self._recent[bad - step - 1])

    def _on_replicas(self, step: Callable[[Batch], None], compiled: bool | None) -> Callable:
        strategy = self._strategy
        function = tf.function(
            lambda batch: strategy.run(step, args=(batch,)),
            autograph=False,
            jit_compile=compiled,
        )
        return parameter_server.dispatched(strategy, function)

    def _for_replicas(self, batch: Batch) -> Batch:
        """Returns what the steps take of a worker's batch, shared out among its replicas."""
        used = ("image", "boundary", "size", "random", "label", "sample_weight")
        return share_out(self._strategy, {k: v for k, v in batch.items() if k in used})

    def _train_one(self, batch: Batch, *, due: bool) -> None:
        self.graph = tf.compat.v1.get_default_graph()  # the one into which this is being traced
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
        """Returns the gradients of a replica's part of the scaled loss, and its sums."""
        with tf.GradientTape() as tape:
            logits, labels = self._inputs.forward(batch, training=True)
            each = self._loss(self._classifier, labels, logits)
            mean = tf.reduce_sum(each * batch["sample_weight"]) / self._batch_size
            scaled = self._update.scaled(mean)
        return tape.gradient(scaled, self._variables), self._sums(batch, logits, each)

    def _validate_one(self, batch: Batch) -> None:
        self._totals.assign_add(summed(self._evaluate(batch)))

    def _evaluate(self, batch: Batch) -> tf.Tensor:
        logits, labels = self._inputs.forward(batch, training=False)
        return self._sums(batch, logits, self._classifier.losses(labels, logits))

    def _sums(self, batch: Batch, logits: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
        """Returns the sums of the losses, of what is right, and of the samples: float32 [3]."""
        real = tf.cast(batch["sample_weight"] > 0, tf.float32)
        chosen = tf.argmax(self._classifier.probabilities(logits), -1)
        right = tf.cast(chosen == tf.cast(batch["label"], tf.int64), tf.float32)
        return tf.stack([tf.reduce_sum(v) for v in (losses * real, right * real, real)])
