"""One picture after the other through the model server."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping

import grpc
import numpy as np

from serving.client import ERROR_OUTPUT, IMAGE_INPUT, IMAGE_OUTPUTS, Client
from serving.transport import ServerError
from serving.web import errors
from serving.web.errors import WebError

EXPLAIN = "explain"
HEAT_MAP = "heat_map"

# How long what is known of a model is taken for true. A server may change the version at any time.
_KNOWN_S = 1.0


@dataclasses.dataclass(frozen=True)
class Served:
    """What the server has now.

    Attributes:
        version: of the model.
        classes: names in the order of their probabilities; empty if the model does not tell.
        explains: whether it can say where in a picture it sees the class.
    """

    version: int
    classes: tuple[str, ...]
    explains: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says of a picture.

    Attributes:
        label: the name of the most probable class.
        confidence: its probability.
        probabilities: of each class by name, in the model's order.
        version: of the model.
        latency_ms: how long the model server took, with the way there and back.
        heat_map: float32 [S, S] in 0..1, where the class is seen in the whole picture, drawn into a
            square; None if it was not asked for, or the model has none.
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    version: int
    latency_ms: float
    heat_map: np.ndarray | None = None


class Model:
    """Asks one model, whatever version of it the server has; safe to use from several threads.

    Attributes:
        name: of the model.
    """

    def __init__(self, connect: Callable[[], Client]):
        """Connects at the first call; `connect` makes a client, which remembers one version."""
        self._connect = connect
        self._client = connect()
        self._timeout_s = self._client.timeout
        self.name = self._client.model
        self._served: Served | WebError | None = None
        self._known_until = 0.0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def served(self) -> Served:
        """Returns what the server has now; raises WebError."""
        return self._known()[1]

    def classify(self, picture: bytes, *, heat_map: bool) -> Answer:
        """Asks what a picture shows.

        Args:
            picture: a whole file.
            heat_map: whether to ask where the class is seen, if the model can tell.

        Raises:
            WebError: there is no answer, or the picture cannot be read.
        """
        client, served = self._known()
        explains = heat_map and served.explains
        start = time.perf_counter()
        try:
            outputs = client.predict(
                {IMAGE_INPUT: [picture]}, signature=EXPLAIN if explains else ""
            )
        except ServerError as error:
            with self._lock:
                self._known_until = 0.0  # what was known may be over
            raise self._problem(error) from None
        latency_ms = (time.perf_counter() - start) * 1000
        if count := _classes(outputs):
            if served.classes and count != len(served.classes):  # another version answered
                served = self._known(anew=True)[1]
            return _answer(outputs, served, latency_ms)
        raise errors.no_classifier(self.name)

    def _known(self, *, anew: bool = False) -> tuple[Client, Served]:
        """Returns what is served, and a client that knows no other version."""
        with self._lock:  # those who wait share what is found, be it a failure
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
        self._client = self._connect()  # calls in flight end with the client they began with
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
    """Returns of how many classes an answer speaks; 0 if it is not one of a classifier."""
    if not set(IMAGE_OUTPUTS) <= set(outputs) or outputs["probabilities"].shape[:1] != (1,):
        return 0
    return outputs["probabilities"][0].size


def _answer(outputs: Mapping[str, np.ndarray], served: Served, latency_ms: float) -> Answer:
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
    return Answer(
        label=label,
        confidence=probabilities[index],
        probabilities=dict(zip(names, probabilities, strict=True)),
        version=served.version,
        latency_ms=latency_ms,
        heat_map=outputs[HEAT_MAP][0] if HEAT_MAP in outputs else None,
    )
