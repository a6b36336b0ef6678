"""Results of each epoch: `log.csv`, TensorBoard, and a line and a table for people."""

import csv
import dataclasses
import pathlib

import numpy as np
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
    time spent waiting for batches.
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

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  val_loss {self.val_loss:.4f}"
            f"  val_accuracy {self.val_accuracy:.4f}  {self.images_per_s:,.0f} images/s"
            f"  input wait {self.input_wait:.0%}  {self.seconds:.1f} s"
        )


def read(folder: pathlib.Path) -> list[Epoch]:
    """Read the `log.csv` of a run folder; return no epochs if there is none.

    Raises:
        UserError: the file is damaged.
    """
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
        self._rows: list[dict[str, object]] = []
        if self._path.exists():
            with open(self._path, newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]
        self._board = tf.summary.create_file_writer(str(folder / TENSORBOARD))

    def add(self, epoch: Epoch) -> None:
        """Add a line; the file is complete at any moment."""
        values = dataclasses.asdict(epoch)
        self._rows.append(values)
        with storage.atomic_file(self._path) as file:
            writer = csv.DictWriter(file, list(values), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        with self._board.as_default(step=epoch.epoch):
            for name, value in values.items():
                if not isinstance(value, str) and name != "epoch":
                    tf.summary.scalar(name, value)
        self._board.flush()

    def images(self, stage: str, images: tf.Tensor) -> None:
        """Show some training images in TensorBoard.

        Args:
            stage: name of the stage.
            images: float32 or uint8 [N, S, S, 3] in 0..255, the model's input.
        """
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
        stages: dict[str, list[dict]] = {}
        for row in self._rows:
            stages.setdefault(str(row["stage"]), []).append(row)
        rows = []
        for name, epochs in stages.items():
            best = epochs[int(np.argmin([float(row["val_loss"]) for row in epochs]))]
            seconds = sum(float(row["seconds"]) for row in epochs)
            measures = (f"{float(best[key]):.4f}" for key in ("loss", "val_loss", "val_accuracy"))
            rows.append([name, len(epochs), best["epoch"], *measures, f"{seconds:,.0f} s"])
        if rows:
            columns = ["stage", "epochs", "best", "loss", "val_loss", "val_accuracy", "time"]
            terminal.show_table("training", columns, rows)
