"""Classifies with a server: the embedded one or TensorFlow Serving."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfpipe.core.errors import ResumableError, UserError
from tfpipe.core.options import option
from tfpipe.predictions.image_classifier import ImageClassifier, Outcome
from tfpipe.protocol.classification import LABELS_OUTPUT
from tfpipe.protocol.client import Client
from tfpipe.protocol.images import MAX_BATCH_BYTES, MAX_IMAGE_BYTES
from tfpipe.protocol.messages import DEFAULT_SIGNATURE
from tfpipe.protocol.transport import ServerError


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of a server."""

    server: str = option(
        "classify with the server at this address: HOST:PORT for gRPC, dns:///HOST:PORT for all"
        " addresses of a host in turn, or http://HOST:PORT for REST",
        "",
        group="Server",
        common=True,
    )
    model_name: str = option("name of the model on the --server", "default")
    model_version: int = option(
        "version of that model; 0 for the highest at the start", 0, minimum=0
    )
    batch_size: int = option("images in a request to the --server, at most", 32, minimum=1)
    concurrency: int = option("requests to the --server at the same time", 2, minimum=1)
    timeout: float = option("seconds to wait for each answer", 30.0, minimum=0.001)
    retries: int = option("retries of a request while the --server is unavailable", 4, minimum=0)
    tls: bool = option("use gRPC over TLS; the files below imply it", False)
    ca_file: str = option("PEM certificates that check the --server's", "")
    cert_file: str = option("the client's own PEM certificate", "")
    key_file: str = option("its PEM key", "")
    token_file: str = option("file with a token for the --server; use TLS with it", "")


def check(options: Options) -> None:
    """Raise UserError if --server is missing for a flag."""
    for field in dataclasses.fields(Options):
        if not options.server and getattr(options, field.name) != field.default:
            raise UserError(
                f"--{field.name} is for a model that is served: give --server too", status=2
            )


def connect(options: Options, bounds: tuple[float, float] | None) -> "ServerClassifier":
    """Return the classifier for the flags, fixed to the version that answers now.

    So a version that is loaded meanwhile does not mix its answers with the first one's.

    Raises:
        UserError: there is no answer.
    """
    names = (field.name for field in dataclasses.fields(Options))
    found = ServerClassifier(bounds, Options(**{name: getattr(options, name) for name in names}))
    return found if options.model_version else found.pinned()


@dataclasses.dataclass(frozen=True)
class ServerClassifier(ImageClassifier[bytes]):
    """A model on a server; its outputs are probabilities.

    Where images may have several classes, the outputs also have 1 for each class that the server
    answers with, and 0 for the others: only the server knows the thresholds.

    Attributes:
        options: the server and the model.
    """

    options: Options

    batch_bytes = MAX_BATCH_BYTES
    ahead = 4  # whole files may be large

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.options.batch_size

    @property
    def concurrency(self) -> int:  # noqa: D102
        return self.options.concurrency

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:  # noqa: D102
        with self._explained():
            return self._client.labels

    @functools.cached_property
    def many(self) -> bool:  # noqa: D102
        with self._explained():
            signatures = self._client.signatures
        default = signatures.get(DEFAULT_SIGNATURE)
        return default is not None and LABELS_OUTPUT in default.outputs

    def own_probabilities(self, outputs: np.ndarray) -> np.ndarray:  # noqa: D102
        return outputs[:, : len(self.classes)]

    def answers(  # noqa: D102
        self, outputs: np.ndarray, thresholds: Sequence[float] | None = None
    ) -> np.ndarray | None:
        if thresholds is not None or not self.many:
            return super().answers(outputs, thresholds)
        return outputs[:, len(self.classes) :] > 0

    def pinned(self) -> "ServerClassifier":
        """Return this classifier, fixed to the version that answers now."""
        with self._explained():
            version = self._client.metadata().version
        self._client.close()
        return dataclasses.replace(
            self, options=dataclasses.replace(self.options, model_version=version)
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # noqa: D102
        # Not the address: the same model may answer elsewhere when the prediction continues.
        name, version = self.options.model_name, self.options.model_version
        return {"model": name, "version": version, "classes": self.classes}

    def prepare(self, encoded: bytes) -> bytes:  # noqa: D102
        return encoded

    def size(self, prepared: bytes) -> int:  # noqa: D102
        return len(prepared)

    def classify(self, images: Sequence[bytes | None]) -> Outcome:  # noqa: D102
        width = len(self.classes) * (2 if self.many else 1)
        outputs = np.full((len(images), width), np.nan, np.float32)
        large = f"more than {MAX_IMAGE_BYTES >> 20} MiB, the limit of a request"
        there = {place: image for place, image in enumerate(images) if image is not None}
        refused = {place: large for place, image in there.items() if len(image) > MAX_IMAGE_BYTES}
        sent = {place: image for place, image in there.items() if place not in refused}
        with self._explained():
            answers = self._client.classify_images([*sent.values()])
        unfamiliar = None
        for place, answer in zip(sent, answers, strict=True):
            if isinstance(answer, ServerError):
                refused[place] = str(answer)
                continue
            answered = [name in answer.labels for name in self.classes] if self.many else []
            outputs[place] = (*answer.probabilities, *answered)
            if answer.unfamiliar is not None:
                if unfamiliar is None:
                    unfamiliar = np.full(len(images), np.nan, np.float32)
                unfamiliar[place] = answer.unfamiliar
        return Outcome(outputs, refused, unfamiliar)

    def heat_maps(self, files: Sequence[bytes]) -> np.ndarray:  # noqa: D102
        inputs = {"image_bytes": list(files)}
        with self._explained():
            return self._client.predict(inputs, ["heat_map"], signature_name="explain")["heat_map"]

    @functools.cached_property
    def _client(self) -> Client:
        given = dataclasses.asdict(self.options)
        del given["batch_size"], given["concurrency"]
        with self._explained():
            return Client(version=given.pop("model_version"), **given)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert the client's errors to ResumableError, which names the flag."""
        try:
            yield
        except UserError as error:
            raise ResumableError(f"--server={self.options.server}: {error}") from None
