"""Callbacks of tf_keras in a training."""

from collections.abc import Callable, Iterator, Sequence

import tf_keras

from tfpipe.training.log import Epoch


class Callbacks:
    """Calls callbacks as `Model.fit` does; epochs count through all stages, from 0."""

    def __init__(
        self,
        callbacks: Sequence[tf_keras.callbacks.Callback],
        model: tf_keras.Model,
        *,
        epochs: int,
        steps: int,
    ):
        """`model` is the whole classifier; `epochs` counts those of all stages."""
        self._model = model
        self._list = tf_keras.callbacks.CallbackList(
            list(callbacks), model=model, verbose=0, epochs=epochs, steps=steps
        )
        model.stop_training = False

    @property
    def stopped(self) -> bool:
        """Whether a callback has set `model.stop_training`."""
        return self._model.stop_training

    def begin(self) -> None:
        """Begin the training."""
        self._list.on_train_begin()

    def end(self) -> None:
        """End the training."""
        self._list.on_train_end()

    def begin_stage(self, model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer) -> None:
        """Give the callbacks the model and optimizer of a stage, whose rate they may change."""
        if model is not self._model:
            model.stop_training = self._model.stop_training
            self._model = model
            self._list.set_model(model)
        model.optimizer = optimizer

    def begin_epoch(self, epoch: int) -> float | None:
        """Begin an epoch; return the learning rate if a callback sets it."""
        return self._rate_after(lambda: self._list.on_epoch_begin(epoch))

    def end_epoch(self, result: Epoch) -> float | None:
        """End an epoch; return the learning rate if a callback sets it."""
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        logs = {name: getattr(result, name) for name in names}
        return self._rate_after(lambda: self._list.on_epoch_end(result.epoch - 1, logs))

    def _rate_after(self, call: Callable[[], object]) -> float | None:
        """Return the rate that a call gives to the optimizer, which a schedule would overwrite."""
        before = self._rate()
        call()
        after = self._rate()
        return None if after == before else after

    def _rate(self) -> float | None:
        """Return the optimizer's rate; None if no callback can set it."""
        rate = self._model.optimizer.learning_rate
        return None if callable(rate) else float(tf_keras.backend.get_value(rate))

    def batches(
        self, losses: Iterator[float | None], first: int, last: int
    ) -> Iterator[float | None]:
        """Yield the loss of each step, or None, with the calls around the steps `first` to `last`.

        The losses may end earlier.
        """
        for step in range(first, last):
            self._list.on_train_batch_begin(step)
            try:
                loss = next(losses)
            except StopIteration:
                return
            self._list.on_train_batch_end(step, {} if loss is None else {"loss": loss})
            yield loss
        yield from losses

    def validated(self, validate: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        """Return the loss, accuracy and more of a validation, with the calls around it."""
        self._list.on_test_begin()
        result = validate()
        self._list.on_test_end({"loss": result[0], "accuracy": result[1]})
        return result
