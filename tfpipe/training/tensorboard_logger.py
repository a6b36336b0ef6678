"""The logger for TensorBoard."""

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import SummaryMetadata
from tensorflow.core.protobuf import config_pb2

from tfpipe.training.log import Epoch
from tfpipe.training.loggers import Logger
from tfpipe.training.run_folder import RunFolder

TENSORBOARD = "tensorboard"  # folder in the run's


class TensorBoardLogger(Logger):
    """Writes scalars of each epoch, augmented images and graphs."""

    def __init__(self, run: RunFolder, epochs: int):
        """Open a new file of events."""
        self._board = tf.summary.create_file_writer(str(run.folder / TENSORBOARD))

    def add(self, epoch: Epoch) -> None:
        """Add the figures of an epoch."""
        with self._board.as_default(step=epoch.epoch):
            for name, value in epoch.figures.items():
                tf.summary.scalar(name, value)
        self._board.flush()

    def images(self, stage: str, images: tf.Tensor) -> None:
        """Show images of a stage, uint8 [N, S, S, 3]."""
        with self._board.as_default(step=0):
            tf.summary.image(f"augmented/{stage}", images, max_outputs=len(images))
        self._board.flush()

    def graph(self, stage: str, graph: tf.Graph) -> None:
        """Show the graph of a stage's step.

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
