"""Runs the warm-up requests of a version, so that no client waits for the first answer."""

import pathlib
import time
from collections.abc import Iterable

from google.protobuf.message import Message

from serving import request_inference as inference
from tfpipe.protocol import warm_up_file as requests_file
from tfpipe.protocol.errors import precondition
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.messages import MultiInferenceRequest


def warm_up(model: LoadedModel, *, low_priority: bool = False) -> int:
    """Run the requests in a version's file; without a file, each signature with an empty batch.

    Args:
        model: the version.
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
    try:
        return _replay(model, path, low_priority)
    except Exception as error:  # not TFRecord, not a PredictionLog, or a request's own error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise precondition(f"cannot warm up with {path}: {reason}") from error


def _replay(model: LoadedModel, path: pathlib.Path, low_priority: bool) -> int:
    requests, count = requests_file.read(path), 0
    for request in _smallest(requests) if low_priority else requests:
        started = time.monotonic()
        inference.run(model, request)
        if low_priority:
            time.sleep(time.monotonic() - started)
        count += 1
    return count


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
