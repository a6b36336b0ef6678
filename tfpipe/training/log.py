"""Results of each epoch: `log.csv`, TensorBoard, and a line and a table for people."""

import csv
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import SummaryMetadata
from tensorflow.core.protobuf import config_pb2

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError, one_line

LOG = "log.csv"
TENSORBOARD = "tensorboard"  # folder in the run's


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One line of the log; a field is a column.

    `loss` is what the training minimises; `val_loss` is always the cross-entropy in nats.
    `learning_rate` is the rate at the end of the epoch. `input_wait` is the share of the training
    time spent waiting for batches. `cost` is what the best epoch has least of: the
    validation loss, or the metric of `--monitor`, negative if higher is better; NaN in older logs.
    """

    epoch: int
    stage: str
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_s: float
    input_wait: float
    seconds: float
    cost: float = math.nan

    def __str__(self) -> str:
        speed = (
            f"  {self.images_per_s:,.0f} images/s  input wait {self.input_wait:.0%}"
            f"  {self.seconds:.1f} s"
        )
        return (
            f"loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  val_loss {self.val_loss:.4f}"
            f"  val_accuracy {self.val_accuracy:.4f}{speed if self.seconds >= 1 else ''}"
        )


def best(epochs: Sequence[Epoch]) -> Epoch:
    """Return the first epoch of the lowest cost."""
    return min(epochs, key=lambda each: each.val_loss if math.isnan(each.cost) else each.cost)


def read(folder: pathlib.Path) -> list[Epoch]:
    """Read the `log.csv` of a run folder, if there is one; raise UserError if it is damaged."""
    path = folder / LOG
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in dataclasses.fields(Epoch)}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                Epoch(**{name: kinds[name](value) for name, value in row.items()})
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): train again") from None


class Log:
    """The run's `log.csv` and its twin for TensorBoard."""

    def __init__(self, folder: pathlib.Path, epochs: int):
        """Open the logs; drop lines after the first `epochs`, which run again."""
        self._path = folder / LOG
        self._epochs = [epoch for epoch in read(folder) if epoch.epoch <= epochs]
        self._board = tf.summary.create_file_writer(str(folder / TENSORBOARD))

    def add(self, epoch: Epoch) -> None:
        """Add a line; the file is complete at any moment."""
        self._epochs.append(epoch)
        values = dataclasses.asdict(epoch)
        with storage.atomic_file(self._path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(values)
            writer.writerows(map(dataclasses.astuple, self._epochs))
        with self._board.as_default(step=epoch.epoch):
            for name, value in values.items():
                if not isinstance(value, str) and name != "epoch":
                    tf.summary.scalar(name, value)
        self._board.flush()

    def images(self, stage: str, images: tf.Tensor) -> None:
        """Show images of a stage in TensorBoard, float32 or uint8 [N, S, S, 3] in 0..255."""
        shown = tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
        with self._board.as_default(step=0):
            tf.summary.image(f"augmented/{stage}", shown, max_outputs=len(shown))
        self._board.flush()

    def graph(self, stage: str, graph: tf.Graph) -> None:
        """Show the graph of a stage's step in TensorBoard.

        `tf.summary.trace_on` writes every function of the process three times, with the constant
        weights of frozen layers. Above 2 GB such a trace cannot be read.
        """
        run = config_pb2.RunMetadata()
        function = run.function_graphs.add()
        function.pre_optimization_graph.CopyFrom(graph.as_graph_def())
        metadata = SummaryMetadata(
            plugin_data={"plugin_name": "graph_run_metadata_graph", "content": b"1"}
        )
        with self._board.as_default(step=0):
            tf.summary.write(stage, run.SerializeToString(), metadata=metadata)
        self._board.flush()

    def show(self) -> None:
        """Print a table with the best epoch of each stage."""
        rows = []
        for name, group in itertools.groupby(self._epochs, lambda epoch: epoch.stage):
            epochs = list(group)
            chosen = best(epochs)
            seconds = sum(epoch.seconds for epoch in epochs)
            figures = (f"{v:.4f}" for v in (chosen.loss, chosen.val_loss, chosen.val_accuracy))
            rows.append([name, len(epochs), chosen.epoch, *figures, f"{seconds:,.0f} s"])
        if rows:
            columns = ["stage", "epochs", "best", "loss", "val_loss", "val_accuracy", "time"]
            terminal.show_table("training", columns, rows)
