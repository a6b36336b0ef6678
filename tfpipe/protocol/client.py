"""A client of one model on a server."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import grpc
import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.protocol import messages, transport
from tfpipe.protocol.transport import ServerError

IMAGE_INPUT = "image_bytes"
IMAGE_KEY = "image/encoded"  # the image in a tf.Example
IMAGE_OUTPUTS = ("probabilities", "class_index", "class_name")
ERROR_OUTPUT = "error"

# How the embedded server and TensorFlow Serving refuse work, besides the code UNAVAILABLE.
BUSY = re.compile("try again later|queue .*is full")


class Classification(NamedTuple):
    """The most probable class of one image, and the probability of each class."""

    label: str
    index: int
    confidence: float
    probabilities: tuple[float, ...]


class Client:
    """Speaks to one model of a server; safe to use from several threads.

    with Client("127.0.0.1:8500", "demo") as client:
        client.predict({"image_bytes": [jpeg]})["probabilities"]  # float32 [1, classes]
    """

    def __init__(
        self,
        server: str,
        model_name: str,
        *,
        signature_name: str = messages.DEFAULT_SIGNATURE,
        version: int = 0,
        version_label: str = "",
        timeout: float = 10.0,
        retries: int = 4,
        tls: bool = False,
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
    ):
        """Connect at the first call.

        Args:
            server: HOST:PORT for gRPC, http://HOST:PORT or https://HOST:PORT for REST.
            model_name: name of the model.
            signature_name: the signature of `predict` and `classify_images`.
            version: number of a version; 0 for the highest.
            version_label: label of a version, instead of its number.
            timeout: seconds for each request.
            retries: how often a request is sent again while the server is unavailable.
            tls: use gRPC over TLS; any of the files implies it.
            ca_file: PEM certificates that check the server's; empty for the system's.
            cert_file: the client's own PEM certificate; empty for none.
            key_file: its PEM key.

        Raises:
            UserError: a file cannot be read, `server` has neither form, or `timeout` is no time.
        """
        if not 0 < timeout < math.inf:
            raise UserError(f"`timeout={timeout:g}` is no time to wait: give seconds above 0")
        self.server = server
        self.model_name = model_name
        self.signature_name = signature_name
        self.timeout = timeout
        self._version = version
        self._retries = retries
        files = (ca_file, cert_file, key_file)
        keys = transport.ClientTls(*files) if tls or any(files) else None
        target = transport.Target(model_name, version, version_label)
        connect = transport.Rest if "://" in server else transport.Grpc
        self._connection = connect(server, target, timeout, keys)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] = (), *, signature_name: str = ""
    ) -> dict[str, np.ndarray]:
        """Run a signature.

        Args:
            inputs: an array, or nested lists, for each input.
            outputs: the outputs to return; empty means all.
            signature_name: another signature than the client's.

        Returns:
            An array for each output; strings are bytes in arrays of objects.

        Raises:
            ServerError: there is no answer, or the request is refused.
        """
        key = signature_name or self.signature_name
        return self._call(lambda: self._connection.predict(inputs, outputs, key))

    def metadata(self) -> transport.Metadata:
        """Return the version that is served now, and its signatures.

        Raises:
            ServerError: there is no answer, or the request is refused.
        """
        return self._call(self._connection.metadata)

    @functools.cached_property
    def signatures(self) -> dict[str, messages.SignatureDef]:
        """The model's signatures, requested once."""
        return self.metadata().signatures

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the probabilities, requested once.

        Raises:
            ServerError: there is no answer, or the model has no signature `classify`.
        """
        blank = messages.Example()
        blank.features.feature[IMAGE_KEY].bytes_list.value.append(b"")
        inputs = {"inputs": [blank.SerializeToString()]}
        answer = self.predict(inputs, ["classes"], signature_name="classify")["classes"]
        return tuple(name.decode(errors="replace") for name in answer[0].tolist())

    def classify_images(
        self, images: Sequence[bytes], *, threshold: float | None = None
    ) -> list[Classification | ServerError]:
        """Classify images.

        Args:
            images: whole image files, sent as one request.
            threshold: the least probability of the second of two classes to be the label; None
                for the most probable class.

        Returns:
            A classification for each image, or the error if the server refuses that image.

        Raises:
            ServerError: there is no answer, or the signature does not classify images.
            UserError: there is a threshold, and the model has not two classes.
        """
        if not images:
            return []
        try:
            outputs = self.predict({IMAGE_INPUT: list(images)})
            if not set(IMAGE_OUTPUTS) <= set(outputs):
                raise ServerError(grpc.StatusCode.FAILED_PRECONDITION, "outputs are missing")
        except ServerError as error:
            refused = error.code is grpc.StatusCode.INVALID_ARGUMENT
            if refused or error.code is grpc.StatusCode.FAILED_PRECONDITION:
                self.check_signature()
            if not refused:
                raise
            if len(images) == 1:
                return [error]
            # This model reports no error for each image: halve the batch until the bad one is
            # alone.
            half = len(images) // 2
            parts = (images[:half], images[half:])
            return [
                each for part in parts for each in self.classify_images(part, threshold=threshold)
            ]
        try:
            classes = outputs["probabilities"].shape[1]
            if threshold is not None and classes != 2:
                raise UserError(
                    f"`threshold={threshold:g}` is for two classes, and the model"
                    f" {self.model_name!r} has {classes}: leave it out"
                )
            columns = [outputs[alias].tolist() for alias in IMAGE_OUTPUTS]
            reasons = (
                outputs[ERROR_OUTPUT].tolist() if ERROR_OUTPUT in outputs else [b""] * len(images)
            )
            rows = zip(images, reasons, *columns, strict=True)
            return [self._classification(*row, threshold) for _, *row in rows]
        except (ValueError, IndexError, TypeError, AttributeError):
            raise self._unreadable() from None

    def _classification(
        self,
        reason: bytes,
        probabilities: list[float],
        index: int,
        name: bytes,
        threshold: float | None,
    ) -> Classification | ServerError:
        if reason:
            message = f"{self.server} answers: {reason.decode(errors='replace')}"
            return ServerError(grpc.StatusCode.INVALID_ARGUMENT, message)
        label = name.decode(errors="replace")
        if threshold is not None:
            chosen = int(probabilities[1] >= threshold)
            index, label = chosen, label if chosen == index else self.labels[chosen]
        return Classification(label, index, probabilities[index], (*probabilities,))

    def check_signature(self) -> None:
        """Raise ServerError if the signature does not map images to classes."""
        fitting = [
            name
            for name, definition in sorted(self.signatures.items())
            if set(definition.inputs) == {IMAGE_INPUT}
            and set(IMAGE_OUTPUTS) <= set(definition.outputs)
        ]
        if self.signature_name not in fitting:
            raise ServerError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"model {self.model_name!r} has no signature {self.signature_name!r} that"
                f" classifies images; those that do: {', '.join(fitting) or 'none'}",
            )

    def _unreadable(self) -> ServerError:
        return ServerError(
            grpc.StatusCode.INTERNAL,
            f"{self.server} answers with outputs that cannot be read or do not fit the request",
        )

    def _call(self, call: Callable):
        try:
            return transport.repeated(call, self._retries)
        except ServerError as error:
            raise ServerError(error.code, self._explain(error)) from None
        except (ValueError, KeyError, TypeError):
            raise self._unreadable() from None

    def _explain(self, error: ServerError) -> str:
        """Return what a refusal means."""
        code, details = error.code, str(error)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return f"{self.server} cannot answer: {details}"
        if code is grpc.StatusCode.UNAVAILABLE and BUSY.search(details):
            return f"{self.server} has too much to do ({details})"
        if code is grpc.StatusCode.UNAVAILABLE:
            return f"no server answers at {self.server} ({details})"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{self.server} did not answer within {self.timeout:g} s"
        if code is grpc.StatusCode.NOT_FOUND:
            version = f"version {self._version} of " if self._version else ""
            return f"{self.server} serves no {version}model {self.model_name!r}: {details}"
        return f"{self.server} answers {code.name}: {details}"
