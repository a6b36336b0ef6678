"""Replays the requests that an export brings along, so that no client waits for the first one."""

import pathlib
from collections.abc import Callable

import grpc
import tensorflow as tf

from serving import inference
from serving.errors import RequestError
from serving.protocol import PredictionLog
from serving.servable import Servable

FILE = "assets.extra/tf_serving_warmup_requests"
MOST_RECORDS = 1000  # saved_model_warmup.h

_ANSWERS: dict[str, Callable] = {
    "predict_log": inference.predict,
    "classify_log": inference.classify,
    "regress_log": inference.regress,
    "multi_inference_log": inference.multi_inference,
}


def warm_up(servable: Servable) -> int:
    """Runs the requests of a version's file; without one, each signature with an empty batch.

    Returns:
        How many requests there were.

    Raises:
        RequestError: the file is damaged or too long, or one of its requests fails.
    """
    path = servable.path / FILE
    if not path.is_file():
        servable.run_empty()
        return 0
    try:
        return _replay(servable, path)
    except Exception as error:  # not TFRecord, not a PredictionLog, or what a request raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION, f"cannot warm up with {path}: {reason}"
        ) from error


def _replay(servable: Servable, path: pathlib.Path) -> int:
    count = 0
    for record in tf.data.TFRecordDataset(str(path)):
        if count == MOST_RECORDS:
            raise ValueError(f"it has more than {MOST_RECORDS:,} records")
        log = PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind not in _ANSWERS:
            raise ValueError(f"record {count} is a {kind}")
        _ANSWERS[kind](servable, getattr(log, kind).request)
        count += 1
    return count
