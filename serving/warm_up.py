"""Runs the warm-up requests of a version, so that no client waits for the first answer."""

import time
from collections.abc import Iterable

from google.protobuf.message import Message

from serving import request_inference as inference
from serving.prometheus_metrics import Metrics
from tfpipe.protocol import warm_up_file as requests_file
from tfpipe.protocol.errors import precondition
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.messages import MultiInferenceRequest


def warm_up(
    model: LoadedModel, metrics: Metrics, *, iterations: int = 1, low_priority: bool = False
) -> int:
    """Run the requests in a version's file; without a file, each signature with an empty batch.

    Args:
        model: the version.
        metrics: where to count the time.
        iterations: how often each request runs.
        low_priority: run only the smallest request of each signature, with a pause as long as it
            took. This leaves the processors to the clients of other versions.

    Returns:
        How many requests ran.

    Raises:
        RequestError: the file is damaged or too long, or a request fails.
    """
    path = model.path / requests_file.FILE
    if not path.is_file():
        model.run_empty()
        return 0
    started, count, requests = time.monotonic(), 0, requests_file.read(path)
    try:
        for request in _smallest(requests) if low_priority else requests:
            for _ in range(iterations):
                _run(model, request, metrics, low_priority)
                count += 1
    except Exception as error:  # not TFRecord, not a PredictionLog, or a request's own error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise precondition(f"cannot warm up with {path}: {reason}") from error
    metrics.record_warm_up(str(model.path), time.monotonic() - started)
    return count


def _run(model: LoadedModel, request: Message, metrics: Metrics, low_priority: bool) -> None:
    started = time.monotonic()
    inference.run(model, request, metrics)
    if low_priority:
        time.sleep(time.monotonic() - started)


def _smallest(requests: Iterable[Message]) -> Iterable[Message]:
    """Return the smallest request of each method and signature."""
    found: dict[tuple[type, str], Message] = {}
    for request in requests:
        is_multi = isinstance(request, MultiInferenceRequest)
        specs = [t.model_spec for t in request.tasks] if is_multi else [request.model_spec]
        key = type(request), str(specs)
        if key not in found or request.ByteSize() < found[key].ByteSize():
            found[key] = request
    return found.values()
