"""Replays the requests that an export brings along, so that no client waits for the first one."""

import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import grpc
import tensorflow as tf
from google.protobuf.message import Message

from serving import inference
from serving.errors import RequestError
from serving.protocol import ModelSpec, MultiInferenceRequest, PredictionLog
from serving.servable import Servable

FILE = "assets.extra/tf_serving_warmup_requests"
MOST_RECORDS = 1000  # saved_model_warmup.h

_ANSWERS: dict[str, Callable] = {
    "predict_log": inference.predict,
    "classify_log": inference.classify,
    "regress_log": inference.regress,
    "multi_inference_log": inference.multi_inference,
}


def warm_up(servable: Servable, *, gently: bool = False) -> int:
    """Runs the requests of a version's file; without one, each signature with an empty batch.

    Args:
        servable: the version.
        gently: whether of each signature only the smallest request is run, beside others that
            clients wait for: it builds all but what depends on the number of images, and a batch
            of 32 would keep them waiting for as long as it takes. Each is followed by a pause as
            long as it took, in which all processors are the clients'.

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
        return _replay(servable, path, gently)
    except Exception as error:  # not TFRecord, not a PredictionLog, or what a request raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION, f"cannot warm up with {path}: {reason}"
        ) from error


def _replay(servable: Servable, path: pathlib.Path, gently: bool) -> int:
    requests, count = _read(path), 0
    for kind, request in _smallest(requests) if gently else requests:
        started = time.monotonic()
        _ANSWERS[kind](servable, request)
        if gently:
            time.sleep(time.monotonic() - started)
        count += 1
    return count


def _smallest(requests: Iterable[tuple[str, Message]]) -> Iterable[tuple[str, Message]]:
    found: dict[tuple[str, str], Message] = {}
    for kind, request in requests:
        key = kind, str(_specs(request))
        if key not in found or request.ByteSize() < found[key].ByteSize():
            found[key] = request
    return [(kind, request) for (kind, _), request in found.items()]


def _specs(request: Message) -> list[ModelSpec]:
    """Returns what a request asks for: of one that asks for several signatures, all."""
    if isinstance(request, MultiInferenceRequest):
        return [task.model_spec for task in request.tasks]
    return [request.model_spec]


def _read(path: pathlib.Path) -> Iterator[tuple[str, Message]]:
    """Yields the requests of a file and what they ask for; raises ValueError."""
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread can hold up the end; see tfpipe/input/tuning.py
    for count, record in enumerate(tf.data.TFRecordDataset(str(path)).with_options(options)):
        if count == MOST_RECORDS:
            raise ValueError(f"it has more than {MOST_RECORDS:,} records")
        log = PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind not in _ANSWERS:
            raise ValueError(f"record {count} is a {kind}")
        yield kind, getattr(log, kind).request
