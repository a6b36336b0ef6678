"""The session of a version, in which its graph runs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session

from serving import background

# The threads for operations are those of all versions, and of one priority: what is run in the
# background is run by its own thread.
_IN_CALLER = config_pb2.RunOptions(inter_op_thread_pool=-1)
_IN_CALLER_BUFFER = pywrap_tf_session.TF_NewBufferFromString(_IN_CALLER.SerializeToString())


class Session(tf.compat.v1.Session):
    """A session of TensorFlow that can run in the background.

    Attributes:
        in_background: whether it does now. Only TensorFlow's own work does: a thread of low
            priority that held Python's lock would hold up all others.
    """

    in_background = False

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        """Does as it does; what loads a SavedModel calls it, without options."""
        if self.in_background:
            options = _IN_CALLER
        return self._do(super().run, fetches, feed_dict, options, run_metadata)

    def function(
        self, inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]
    ) -> Callable[..., Sequence[np.ndarray]]:
        """Returns a function from values of `inputs` to those of `outputs`, in their order.

        It does as `Session.make_callable`, whose functions take 0.13 ms longer for each call, and
        which cannot be run in the background first and elsewhere later. What it runs is built when
        it runs first.
        """
        self._do(self._extend_graph)
        feeds = [tensor._as_tf_output() for tensor in inputs]
        fetches = [tensor._as_tf_output() for tensor in outputs]

        def call(*arrays: np.ndarray) -> Sequence[np.ndarray]:
            options = _IN_CALLER_BUFFER if self.in_background else None
            fed = dict(zip(feeds, arrays, strict=True))
            return self._do(self._call_tf_sessionrun, options, fed, fetches, [], None)

        return call

    def _do(self, function: Callable, *args: Any) -> Any:
        return background.run(function, *args) if self.in_background else function(*args)
