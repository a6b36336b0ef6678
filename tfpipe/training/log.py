"""What a training says of its epochs: `log.csv`, TensorBoard, and lines and a table for people."""

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

    `loss` is what the training minimises, `val_loss` the plain cross-entropy in nats, whatever is
    minimised. `learning_rate` is the rate at the epoch's end.

    `input_wait` is the share of the training time in which no batch was there to go on with.
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
    """Reads the `log.csv` of a run's folder: no epochs without one.

    Raises:
        UserError: it is damaged.
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
        raise UserError(f"{path} is damaged ({one_line(error)}): train anew") from None


class Log:
    """The run's `log.csv` and its twin for TensorBoard."""

    def __init__(self, folder: pathlib.Path, epochs: int):
        """Opens the logs; lines beyond the first `epochs`, which will be run again, are dropped."""
        self._path = folder / LOG
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
                if not isinstance(value, str) and name != "epoch":
                    tf.summary.scalar(name, value)
        self._board.flush()

    def images(self, stage: str, images: tf.Tensor) -> None:
        """Shows some training images in TensorBoard.

        Args:
            stage: the name they are shown under.
            images: float32 or uint8 [N, S, S, 3] in 0..255, as the model gets them.
        """
        shown = tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
        with self._board.as_default(step=0):
            tf.summary.image(f"augmented/{stage}", shown, max_outputs=len(shown))
        self._board.flush()

    def graph(self, stage: str, graph: tf.Graph) -> None:
        """Shows the graph of a stage's step in TensorBoard.

        TensorFlow's own trace of what runs holds every function of the process three times, with
        the constant weights of frozen layers, and cannot be read back when that is more than 2 GB.
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
        """Prints one table: a line for each stage, of its best epoch."""
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
