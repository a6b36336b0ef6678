"""The requests that a server runs before a version becomes available.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of at most
1,000 `PredictionLog` messages (tensorflow_serving/servables/tensorflow/saved_model_warmup.h).
"""

import pathlib
from collections.abc import Iterator

from google.protobuf.message import Message

from tfpipe.protocol.messages import PredictionLog

FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000
# The fields of PredictionLog that are replayed.
_KINDS = ("predict_log", "classify_log", "regress_log", "multi_inference_log")


def read(path: pathlib.Path) -> Iterator[Message]:
    """Yield the request of each record; a record of no type has none.

    Raises:
        ValueError: a record is no PredictionLog of such a method, or there are too many.
        tf.errors.DataLossError: the file is damaged.
    """
    import tensorflow as tf  # here, because `publish` needs only the constants

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread can delay the exit; see tfpipe/input/tuning.py
    for count, record in enumerate(tf.data.TFRecordDataset(str(path)).with_options(options)):
        if count == MAX_RECORDS:
            raise ValueError(f"it has more than {MAX_RECORDS:,} records")
        log = PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind in _KINDS:
            yield getattr(log, kind).request
        elif kind:
            number = log.DESCRIPTOR.fields_by_name[kind].number
            raise ValueError(f"Unsupported log_type for warmup: {number} ({kind})")
