"""A trained run in Python: train it, open it, evaluate, predict and export."""

import contextlib
import functools
import os
import pathlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfpipe import evaluate, export, train
from tfpipe.api import html
from tfpipe.api.boundary import public, with_flags
from tfpipe.api.records import Records, Source, folder_of
from tfpipe.core import keywords, storage
from tfpipe.training.train_config import TrainConfig

if TYPE_CHECKING:
    from tf_keras.callbacks import Callback

    from tfpipe.api.evaluation import EvaluatedRun
    from tfpipe.api.prediction import PredictedImage
    from tfpipe.predictions.run_classifier import RunClassifier
    from tfpipe.runs.loaded_run import LoadedRun

# Options that are arguments of a function, or have no use in Python.
_TRAIN = ("records", "run_dir", "describe", "data_service")
_EVALUATE = ("run_dir", "records")
_EXPORT = ("run_dir", "export_dir")


class Run:
    """A trained run, cross-validation or ensemble, from `tfpipe.fit` or `tfpipe.load_run`."""

    def __init__(self, loaded: "LoadedRun"):
        """Describe a run that was opened."""
        self._loaded = loaded

    @property
    def path(self) -> pathlib.Path:
        """The run's folder."""
        return self._loaded.folder

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self._loaded.classes

    @property
    def history(self) -> dict[str, list[Any]]:
        """The columns of the run's log, as `history` of Keras: a value for each epoch.

        Keys are `epoch`, `stage`, `loss`, `accuracy`, `val_loss`, `val_accuracy`, `learning_rate`
        and others. A cross-validation or an ensemble has none: open the run of a member.
        """
        from tfpipe.training import log

        epochs = [vars(epoch) for epoch in log.read(self.path)]
        return {key: [epoch[key] for epoch in epochs] for key in (epochs[0] if epochs else ())}

    @public
    @with_flags(lambda: evaluate.Options, without=_EVALUATE)
    def evaluate(
        self, data: Records | Source | None = None, *, progress: bool = False, **flags: Any
    ) -> "EvaluatedRun":
        """Evaluate the run, and write `metrics.json` into its folder.

        Args:
            data: records to evaluate on; the run's own if None.
            progress: whether to print what `tfpipe.evaluate` prints.
            flags: the flags of `tfpipe.evaluate`, such as `split`.

        Raises:
            UserError: a keyword is wrong, or the run or the records are damaged.
        """
        from tfpipe.api.evaluation import EvaluatedRun
        from tfpipe.runs import loaded_run

        records = "" if data is None else folder_of(data)
        own = {"run_dir": str(self.path), "records": records}
        evaluate.main(keywords.options(evaluate.Options, "evaluate", flags, **own))
        path = self.path / loaded_run.METRICS
        found = storage.read_json(path, what="an evaluation", hint="evaluate the run again")
        return EvaluatedRun(f"{self.path}, {found['split']}: {found['n']:,} images", found)

    @public
    def predict(
        self, images: Any, *, tta: str = "", on_error: str = "raise", progress: bool = False
    ) -> "list[PredictedImage]":
        """Classify images.

        The model is loaded at the first call. Predictions are those of an export of the run.

        Args:
            images: paths, contents of files, arrays or Pillow images; or one of them. An array is
                uint8 [H, W, 3] in RGB, [H, W, 4] with alpha, or [H, W].
            tta: test-time views in place of the run's, "none" for none.
            on_error: "raise", or "keep" for a row without a label where an image is unreadable.
            progress: whether to print what the run says when it is loaded.

        Returns:
            For each image its `label`, the `probability` of that label, and the `probabilities` of
            all classes.

        Raises:
            UserError: an image cannot be read, or the run is damaged.
        """
        from tfpipe.api import prediction

        given = keywords.options(evaluate.Options, "predict", {"tta": tta}, run_dir="")
        return prediction.predict(self._classifier(given.tta), images, on_error)

    @public
    @with_flags(lambda: export.Options, without=_EXPORT)
    def export(self, export_dir: Source, *, progress: bool = False, **flags: Any) -> pathlib.Path:
        """Export the run as the next version of a served model.

        Args:
            export_dir: folder of the model's versions.
            progress: whether to print what `tfpipe.export` prints.
            flags: the flags of `tfpipe.export`, such as `require="log_loss<0.06"`.

        Returns:
            The folder of the version.

        Raises:
            UserError: a keyword is wrong, or the run does not meet what `require` asks for.
        """
        folder = pathlib.Path(export_dir)
        before = set(folder.iterdir()) if folder.is_dir() else set()
        own = {"run_dir": str(self.path), "export_dir": str(folder)}
        export.main(keywords.options(export.Options, "export", flags, **own))
        (version,) = (path for path in set(folder.iterdir()) - before if path.name.isdecimal())
        return version

    @functools.cached_property
    def _classifier(self) -> "Callable[[str], RunClassifier]":
        """The classifier of some test-time views, which keeps its model."""
        from tfpipe.predictions.run_classifier import RunClassifier

        return functools.cache(lambda tta: RunClassifier(None, str(self.path), tta))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, classes: {', '.join(self.class_names)})"

    def _repr_html_(self) -> str:
        history = self.history
        columns = [key for key in history if key not in ("input_wait", "seconds")]
        rows = [
            [f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row]
            for row in zip(*(history[key] for key in columns), strict=True)
        ]
        return html.table(str(self.path), columns, rows) if rows else f"<p>{self.path}</p>"


@public
@with_flags(lambda: TrainConfig, without=_TRAIN)
def fit(
    data: Records | Source,
    run_dir: Source,
    *,
    callbacks: "Sequence[Callback]" = (),
    progress: bool = False,
    **flags: Any,
) -> Run:
    """Train a classifier, or resume its training, and open it.

    Args:
        data: the records, or their folder.
        run_dir: folder of the run. If the training is interrupted, the same call continues.
        callbacks: of `tf_keras`. Their `model` is the whole classifier. They are called as by
            `Model.fit`; a batch's logs are empty where the loss was not read.
        progress: whether to print what `tfpipe.train` prints.
        flags: the flags of `tfpipe.train`, such as `backbones`, `epochs` or `augment`.

    Raises:
        UserError: a keyword is wrong, or the records or the run do not fit.
    """
    own = {"records": folder_of(data), "run_dir": os.fspath(run_dir)}
    without = ("describe", "data_service")
    config = keywords.options(TrainConfig, "fit", flags, without=without, **own)
    with _kept_seeds():
        train.main(config, callbacks)
    return _load(config.run_dir)


@public
def load_run(run_dir: Source) -> Run:
    """Open the folder of a run, a cross-validation or an ensemble.

    Args:
        run_dir: the folder.

    Raises:
        UserError: it is none, or a member of an ensemble has changed.
    """
    return _load(os.fspath(run_dir))


def _load(run_dir: str) -> Run:
    from tfpipe.runs import loaded_run

    return Run(loaded_run.load(run_dir))


@contextlib.contextmanager
def _kept_seeds() -> Iterator[None]:
    """Restore the seed of TensorFlow and Keras' kind of random numbers, which a training sets.

    The seed of tf_keras' first weights cannot be read, so it is drawn anew.
    """
    import tensorflow as tf
    import tf_keras

    experimental = tf_keras.backend.experimental
    # Of an operation with a seed, the first number is the global seed, or this default.
    default, operation = 87654321, 1
    seed, _ = tf.compat.v1.get_seed(operation)
    uses_generators = experimental.is_tf_random_generator_enabled()
    try:
        yield
    finally:
        tf_keras.utils.set_random_seed(random.SystemRandom().randrange(2**32))
        tf.random.set_seed(None if seed == default else seed)
        if not uses_generators:
            experimental.disable_tf_random_generator()
