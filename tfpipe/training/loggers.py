"""Loggers, by the names of `--log`: they take the results of a training, each to its own place.

To add one, subclass `Logger` in a module of its own and register a function that imports it.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.training import log
from tfpipe.training.log import Epoch
from tfpipe.training.run_folder import RunFolder

CSV = "csv"


class Logger:
    """Takes the results of a training; what a logger has no use for, it leaves out."""

    def __init__(self, run: RunFolder, epochs: int):
        """Open the log of a run, of which the first `epochs` are already there.

        Raises:
            UserError: a package is missing, or the log cannot be opened.
        """

    def add(self, epoch: Epoch) -> None:
        """Add an epoch. The results are safe when this returns."""

    def images(self, stage: str, images: tf.Tensor) -> None:
        """Show images of a stage, uint8 [N, S, S, 3]."""

    def graph(self, stage: str, graph: tf.Graph) -> None:
        """Show the graph of a stage's step."""

    def end(self, *, finished: bool) -> None:
        """Close the log at the end of the training, or where it is interrupted."""

    @classmethod
    def attach(cls, run: RunFolder, path: pathlib.Path) -> None:
        """Keep a file about a run, such as its report, which a later command has written."""


loggers: Registry[Callable[[], type[Logger]]] = Registry("logger")


@loggers.register(CSV)
def _csv() -> type[Logger]:
    from tfpipe.training.csv_logger import CsvLogger

    return CsvLogger


@loggers.register("tensorboard")
def _tensorboard() -> type[Logger]:
    from tfpipe.training.tensorboard_logger import TensorBoardLogger

    return TensorBoardLogger


@loggers.register("mlflow")
def _mlflow() -> type[Logger]:
    from tfpipe.training.mlflow_logger import MlflowLogger, package

    package()
    return MlflowLogger


@loggers.register("wandb")
def _wandb() -> type[Logger]:
    from tfpipe.training.wandb_logger import WandbLogger, package

    package()
    return WandbLogger


def parse(text: str) -> list[type[Logger]]:
    """Return the loggers of the option `log`; raise UserError if one is unknown or missing."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in loggers:
            raise UserError(f"`log={text}`: {name!r} is none of {', '.join(loggers)}")
    return [loggers[name]() for name in dict.fromkeys([CSV, *names])]


class Loggers:
    """All loggers of a training."""

    def __init__(self, run: RunFolder, *, is_chief: bool):
        """Choose them; `run` is this worker's own folder. Workers beside the chief only keep a CSV.

        Raises UserError like `parse`.
        """
        self._run, self._kinds = run, parse(run.config.log if is_chief else CSV)
        self._open: list[Logger] = []

    def begin(self, epochs: int) -> None:
        """Open the logs, of which the first `epochs` stay; later ones run again."""
        self._open = []
        for kind in self._kinds:  # where one fails, those before it are ended
            self._open.append(kind(self._run, epochs))

    def add(self, epoch: Epoch) -> None:
        """Add an epoch to all of them."""
        for logger in self._open:
            logger.add(epoch)

    def images(self, stage: str, images: tf.Tensor) -> None:
        """Show images of a stage, float32 or uint8 [N, S, S, 3] in 0..255."""
        shown = tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
        for logger in self._open:
            logger.images(stage, shown)

    def graph(self, stage: str, graph: tf.Graph) -> None:
        """Show the graph of a stage's step."""
        for logger in self._open:
            logger.graph(stage, graph)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for logger in self._open:
            logger.end(finished=kind is None)

    def show(self) -> None:
        """Print a table with the best epoch of each stage."""
        log.show(log.read(self._run.folder))


def attach(run: RunFolder, path: str | os.PathLike) -> None:
    """Give a file about a run to its loggers; warn where one cannot take it."""
    try:
        for logger in parse(run.config.log):
            logger.attach(run, pathlib.Path(path))
    except UserError as error:
        terminal.warn(f"{path} is not logged: {error}")
