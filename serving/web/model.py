"""Asks the model server about one picture at a time."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping

import grpc
import numpy as np

from serving.web import page_errors as errors
from serving.web.page_errors import WebError
from tfpipe.protocol.classification import LABELS_OUTPUT, unfamiliar
from tfpipe.protocol.client import ERROR_OUTPUT, IMAGE_INPUT, IMAGE_OUTPUTS, Client
from tfpipe.protocol.transport import ServerError

EXPLAIN = "explain"
HEAT_MAP = "heat_map"

# Seconds until the version is requested again; a server may change it at any time.
_KNOWN_S = 1.0


@dataclasses.dataclass(frozen=True)
class Served:
    """The version that is served now.

    Attributes:
        version: its number.
        classes: class names in the order of the probabilities; empty if they are unknown.
        explains: whether it has heat maps.
    """

    version: int
    classes: tuple[str, ...]
    explains: bool


@dataclasses.dataclass(frozen=True)
class PictureAnswer:
    """The model's answer for a picture.

    Attributes:
        label: name of the most probable class; where images may have several, the names of all
            that reach their threshold.
        labels: those names, the most probable first; None where an image has exactly one class.
        confidence: its probability.
        probabilities: by class name, in the model's order.
        version: number of the version that answered.
        latency_ms: duration of the call.
        unfamiliar: above 1 if the picture shows none of the classes; None if the model has no such
            score.
        heat_map: float32 [S, S] in 0..1, where the class is seen in the whole picture, squeezed
            into a square; None if not requested or not supported.
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    version: int
    latency_ms: float
    labels: tuple[str, ...] | None = None
    unfamiliar: float | None = None
    heat_map: np.ndarray | None = None


class ModelClient:
    """Asks one model in any version; safe to use from several threads.

    Attributes:
        name: name of the model.
    """

    def __init__(self, connect: Callable[[], Client]):
        """Connect at the first call. `connect` returns a client, which caches one version."""
        self._connect = connect
        self._client = connect()
        self._timeout_s = self._client.timeout
        self.name = self._client.model_name
        self._served: Served | WebError | None = None
        self._known_until = 0.0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def served(self) -> Served:
        """Return the version that is served now; raises WebError."""
        return self._known()[1]

    def classify(self, picture: bytes, *, heat_map: bool) -> PictureAnswer:
        """Classify a picture.

        Args:
            picture: a whole file.
            heat_map: whether to request a heat map, if the model has them.

        Raises:
            WebError: there is no answer, or the picture cannot be read.
        """
        client, served = self._known()
        explains = heat_map and served.explains
        start = time.perf_counter()
        try:
            outputs = client.predict(
                {IMAGE_INPUT: [picture]}, signature_name=EXPLAIN if explains else ""
            )
        except ServerError as error:
            with self._lock:
                self._known_until = 0.0  # the version may have changed
            raise self._problem(error) from None
        latency_ms = (time.perf_counter() - start) * 1000
        if count := _classes(outputs):
            if served.classes and count != len(served.classes):  # another version answered
                served = self._known(anew=True)[1]
            return _answer(outputs, served, latency_ms)
        raise errors.no_classifier(self.name)

    def _known(self, *, anew: bool = False) -> tuple[Client, Served]:
        """Return the served version, and a client that caches no other one."""
        with self._lock:  # waiting threads share the result, even an error
            if anew or time.monotonic() >= self._known_until:
                try:
                    self._served = self._refreshed()
                except ServerError as error:
                    self._served = self._problem(error)
                self._known_until = time.monotonic() + _KNOWN_S
            if isinstance(self._served, WebError):
                raise self._served
            return self._client, self._served

    def _refreshed(self) -> Served:
        version, signatures = self._client.metadata()
        if isinstance(self._served, Served) and self._served.version == version:
            return self._served
        self._client = self._connect()  # calls under way finish with the old client
        self._client.check_signature()
        try:
            classes = self._client.labels
        except ServerError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                raise
            classes = ()
        explains = EXPLAIN in signatures and HEAT_MAP in signatures[EXPLAIN].outputs
        return Served(version, classes, explains)

    def _problem(self, error: ServerError) -> WebError:
        return errors.of_server(error, self.name, self._timeout_s)


def _classes(outputs: Mapping[str, np.ndarray]) -> int:
    """Return the number of classes in an answer; 0 if it is not a classifier's."""
    if not set(IMAGE_OUTPUTS) <= set(outputs) or outputs["probabilities"].shape[:1] != (1,):
        return 0
    return outputs["probabilities"][0].size


def _answer(outputs: Mapping[str, np.ndarray], served: Served, latency_ms: float) -> PictureAnswer:
    reason = outputs[ERROR_OUTPUT][0] if ERROR_OUTPUT in outputs else b""
    if reason:
        raise errors.unreadable(reason.decode(errors="replace"))
    probabilities = outputs["probabilities"][0].tolist()
    index = int(outputs["class_index"][0])
    label = outputs["class_name"][0].decode(errors="replace")
    names = served.classes
    if len(names) != len(probabilities):
        names = [f"class {place}" for place in range(len(probabilities))]
        names[index] = label
    several = None
    if LABELS_OUTPUT in outputs:
        order = np.flatnonzero(outputs[LABELS_OUTPUT][0]).tolist()
        several = tuple(names[i] for i in sorted(order, key=lambda i: -probabilities[i]))
        label = ", ".join(several) or "none of the classes"
    return PictureAnswer(
        label=label,
        confidence=probabilities[index],
        probabilities=dict(zip(names, probabilities, strict=True)),
        version=served.version,
        latency_ms=latency_ms,
        labels=several,
        unfamiliar=unfamiliar(outputs, 1)[0],
        heat_map=outputs[HEAT_MAP][0] if HEAT_MAP in outputs else None,
    )
