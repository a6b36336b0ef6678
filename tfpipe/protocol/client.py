"""Clients of one model on a server: one that blocks, and one for asyncio."""

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.protocol import messages, transport
from tfpipe.protocol.transport import (
    Answer,
    InputError,
    ServerError,
    Target,
    VersionStatus,
    finish,
)
from tfpipe.protocol.versions import LARGEST_VERSION

IMAGE_INPUT = "image_bytes"
IMAGE_KEY = "image/encoded"  # the image in a tf.Example
IMAGE_OUTPUTS = ("probabilities", "class_index", "class_name")
ERROR_OUTPUT = "error"

# How the embedded server and TensorFlow Serving refuse work, besides the code UNAVAILABLE.
BUSY = re.compile("try again later|queue .*is full")

# Seconds until the served version is asked for again; a server may change it at any time.
_KNOWN_S = 1.0
# The answers that say that a server is not ready, instead of that something is wrong.
_NOT_READY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
)


class Classification(NamedTuple):
    """The most probable class of one image, and the probability of each class."""

    label: str
    index: int
    confidence: float
    probabilities: tuple[float, ...]


class _ModelClient:
    """One model on a server. Its coroutines wait only where the connection does."""

    _is_async = False

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
        metadata: Mapping[str, str] | None = None,
        token: str = "",
        token_file: str = "",
        compression: str = "",
        keepalive: float = 0.0,
        channel_options: Mapping[str, int | str] | None = None,
    ):
        """Connect at the first call.

        Args:
            server: HOST:PORT for gRPC, or another target of gRPC: with dns:///HOST:PORT requests
                go to all addresses of the host in turn. http://HOST:PORT or https://HOST:PORT for
                REST.
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
            metadata: gRPC metadata, or HTTP headers, of each request.
            token: sent as `authorization: Bearer TOKEN`. Without TLS the network can read it.
            token_file: a file with the token, instead; it is read for each request.
            compression: of the requests: gzip, deflate (only gRPC), or empty for none.
            keepalive: seconds between two pings of an idle gRPC connection; 0 for none. Most
                servers refuse more than one in 5 minutes.
            channel_options: further arguments of the gRPC channel, such as
                {"grpc.lb_policy_name": "pick_first"}.

        Raises:
            UserError: `server` has no known form, an option has no use, or a file cannot be read.
        """
        if version and version_label:
            raise UserError(
                f"`version={version}` and `version_label={version_label}` are both given: leave"
                " one out"
            )
        if not 0 <= version <= LARGEST_VERSION:
            raise UserError(f"`version={version}` is no version: give a number above 0")
        self.server = server
        self.model_name = model_name
        self.signature_name = signature_name
        self.timeout = timeout
        self._retries = retries
        files = (ca_file, cert_file, key_file)
        settings = transport.ConnectionSettings(
            timeout=timeout,
            tls=transport.ClientTls(*files) if tls or any(files) else None,
            metadata=metadata or {},
            token=token,
            token_file=token_file,
            compression=compression,
            keepalive=keepalive,
            channel_options=channel_options or {},
        )
        self._target = Target(model_name, version, version_label)
        self._connection = transport.connect(server, settings, is_async=self._is_async)
        self._known: dict[Target, tuple[transport.Metadata, float]] = {}
        self._labels: tuple[int, tuple[str, ...]] = (0, ())

    async def _predict(
        self,
        inputs: Mapping[str, object],
        outputs: Sequence[str],
        signature_name: str,
        version: int = 0,
    ) -> Answer:
        """Run a signature, in `version` if it is given."""
        if isinstance(outputs, str):
            raise InputError(f"the outputs are {outputs!r}: give a list of names")
        arrays = transport.read_inputs(inputs)
        target = self._target.at(version) if version else self._target

        async def describe(anew: bool) -> transport.Metadata:
            return await self._served(target, anew=anew)

        answer = await self._call(
            lambda: self._connection.predict(
                target, arrays, outputs, signature_name or self.signature_name, describe
            )
        )
        known = self._known.get(self._target)
        if known and not version and answer.version not in (0, known[0].version):
            self._known.clear()
        return answer

    async def _metadata(self) -> transport.Metadata:
        return await self._call(lambda: self._served(self._target, anew=True))

    async def _served(self, target: Target, *, anew: bool = False) -> transport.Metadata:
        """Return what is served; unless it is asked anew, the answer may be a second old."""
        found, until = self._known.get(target, (None, 0.0))
        if anew or found is None or time.monotonic() >= until:
            found = await self._connection.metadata(target)
            self._known[target] = (found, time.monotonic() + _KNOWN_S)
        return found

    async def _signatures(self) -> dict[str, messages.SignatureDef]:
        return (await self._call(lambda: self._served(self._target))).signatures

    async def _labels_of(self, version: int) -> tuple[str, ...]:
        """Return the class names of a version."""
        known, labels = self._labels
        if known != version or not version:
            blank = messages.Example()
            blank.features.feature[IMAGE_KEY].bytes_list.value.append(b"")
            inputs = {"inputs": [blank.SerializeToString()]}
            answer = await self._predict(inputs, ["classes"], "classify", version)
            names = answer.outputs["classes"][0].tolist()
            labels = tuple(name.decode(errors="replace") for name in names)
            self._labels = (version, labels)
        return labels

    async def _current_labels(self) -> tuple[str, ...]:
        served = await self._call(lambda: self._served(self._target))
        return await self._labels_of(served.version)

    async def _status(self) -> list[VersionStatus]:
        found = await self._call(lambda: self._connection.status(self._target))
        states = messages.ModelVersionStatus.State
        return [
            VersionStatus(each.version, states.Name(each.state), each.status.error_message)
            for each in found.model_version_status
        ]

    async def _is_ready(self) -> bool:
        try:
            if not await self._connection.is_healthy():
                return False
            await self._served(self._target, anew=True)
        except ServerError as error:
            # A label that is not assigned yet is INVALID_ARGUMENT.
            no_label = self._target.version_label and error.code is grpc.StatusCode.INVALID_ARGUMENT
            if error.code in _NOT_READY or no_label:
                return False
            raise ServerError(error.code, self._explain(error)) from None
        return True

    async def _classify(
        self, images: Sequence[bytes], threshold: float | None
    ) -> list[Classification | ServerError]:
        _check_images(images)
        if not images:
            return []
        try:
            answer = await self._predict({IMAGE_INPUT: [bytes(each) for each in images]}, (), "")
            if not set(IMAGE_OUTPUTS) <= set(answer.outputs):
                raise ServerError(grpc.StatusCode.FAILED_PRECONDITION, "outputs are missing")
        except ServerError as error:
            refused = error.code is grpc.StatusCode.INVALID_ARGUMENT
            if refused or error.code is grpc.StatusCode.FAILED_PRECONDITION:
                await self._check_signature()
            if not refused:
                raise
            if len(images) == 1:
                return [error]
            # This model reports no error for each image: halve the batch until the bad one is
            # alone.
            half = len(images) // 2
            first = await self._classify(images[:half], threshold)
            return first + await self._classify(images[half:], threshold)
        outputs, labels = answer.outputs, ()
        try:
            if threshold is not None:
                self._check_threshold(threshold, outputs["probabilities"].shape[1])
                chosen = outputs["probabilities"][:, 1] >= threshold
                if (chosen != outputs["class_index"]).any():
                    labels = await self._labels_of(answer.version)
            return _classifications(outputs, len(images), threshold, labels, self.server)
        except ServerError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            # Another version has replaced the one that answered.
            return await self._classify(images, threshold)
        except (ValueError, IndexError, TypeError, AttributeError):
            raise self._unreadable() from None

    def _check_threshold(self, threshold: float, classes: int) -> None:
        if classes != 2:
            raise UserError(
                f"`threshold={threshold:g}` is for two classes, and the model {self.model_name!r}"
                f" has {classes}: leave it out"
            )

    async def _check_signature(self) -> None:
        fitting = [
            name
            for name, definition in sorted((await self._signatures()).items())
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

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await transport.repeated(call, self._retries, self._connection.sleep)
        except ServerError as error:
            raise ServerError(error.code, self._explain(error)) from None
        except UserError:
            raise
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
            version = f"version {self._target.version} of " if self._target.version else ""
            return f"{self.server} serves no {version}model {self.model_name!r}: {details}"
        return f"{self.server} answers {code.name}: {details}"


class Client(_ModelClient):
    """Speaks to one model of a server; safe to use from several threads.

    with Client("127.0.0.1:8500", "demo") as client:
        client.predict({"image_bytes": [jpeg]})["probabilities"]  # float32 [1, classes]
    """

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        finish(self._connection.close())

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
            InputError: an input is nothing that can be sent; a ValueError and a UserError.
            ServerError: there is no answer, or the request is refused.
        """
        return finish(self._predict(inputs, outputs, signature_name)).outputs

    def metadata(self) -> transport.Metadata:
        """Return the version that is served now, and its signatures.

        Raises:
            ServerError: there is no answer, or the request is refused.
        """
        return finish(self._metadata())

    def get_model_status(self) -> list[VersionStatus]:
        """Return the states of the model's versions, or of the client's version alone.

        Raises:
            ServerError: there is no answer, or the server does not know the model.
        """
        return finish(self._status())

    def is_server_ready(self) -> bool:
        """Return whether the server takes requests now, and serves the client's model and version.

        A server that does not answer is not ready; nothing is sent again.

        Raises:
            ServerError: waiting cannot help, such as at the port of another protocol.
        """
        return finish(self._is_ready())

    @property
    def signatures(self) -> dict[str, messages.SignatureDef]:
        """The signatures of the version that is served now, or was within the last second."""
        return finish(self._signatures())

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the probabilities, of the version that is served now.

        Raises:
            ServerError: there is no answer, or the model has no signature `classify`.
        """
        return finish(self._current_labels())

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
            InputError: an image is not bytes.
            ServerError: there is no answer, or the signature does not classify images.
            UserError: there is a threshold, and the model has not two classes.
        """
        return finish(self._classify(images, threshold))

    def check_signature(self) -> None:
        """Raise ServerError if the signature does not map images to classes."""
        finish(self._check_signature())


class AsyncClient(_ModelClient):
    """`Client` for asyncio: each method is a coroutine. To be used in one event loop.

    async with AsyncClient("127.0.0.1:8500", "demo") as client:
        answers = await asyncio.gather(*(client.predict({"image_bytes": [f]}) for f in files))

    REST requests run in the event loop's threads.
    """

    _is_async = True

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] = (), *, signature_name: str = ""
    ) -> dict[str, np.ndarray]:
        """Run a signature; see `Client.predict`."""
        return (await self._predict(inputs, outputs, signature_name)).outputs

    async def metadata(self) -> transport.Metadata:
        """Return the version that is served now; see `Client.metadata`."""
        return await self._metadata()

    async def get_model_status(self) -> list[VersionStatus]:
        """Return the states of the model's versions; see `Client.get_model_status`."""
        return await self._status()

    async def is_server_ready(self) -> bool:
        """Return whether the server takes requests now; see `Client.is_server_ready`."""
        return await self._is_ready()

    async def signatures(self) -> dict[str, messages.SignatureDef]:
        """Return the signatures; see `Client.signatures`."""
        return await self._signatures()

    async def labels(self) -> tuple[str, ...]:
        """Return the class names; see `Client.labels`."""
        return await self._current_labels()

    async def classify_images(
        self, images: Sequence[bytes], *, threshold: float | None = None
    ) -> list[Classification | ServerError]:
        """Classify images; see `Client.classify_images`."""
        return await self._classify(images, threshold)


def _check_images(images: Sequence[bytes]) -> None:
    if isinstance(images, str | bytes | bytearray | memoryview):
        raise InputError("the images are one file: give a list of files, as bytes")
    for place, image in enumerate(images):
        if not isinstance(image, bytes | bytearray | memoryview):
            raise InputError(
                f"image {place} is {type(image).__name__}, not bytes: give the content of the file"
            )


def _classifications(
    outputs: Mapping[str, np.ndarray],
    count: int,
    threshold: float | None,
    labels: Sequence[str],
    server: str,
) -> list[Classification | ServerError]:
    """Return the classification of each of `count` images; `labels` are for a threshold."""
    columns = [outputs[alias].tolist() for alias in IMAGE_OUTPUTS]
    reasons = outputs[ERROR_OUTPUT].tolist() if ERROR_OUTPUT in outputs else [b""] * count
    found: list[Classification | ServerError] = []
    for _, reason, probabilities, index, name in zip(range(count), reasons, *columns, strict=True):
        if reason:
            message = f"{server} answers: {reason.decode(errors='replace')}"
            found.append(ServerError(grpc.StatusCode.INVALID_ARGUMENT, message))
            continue
        label = name.decode(errors="replace")
        if threshold is not None and index != (chosen := int(probabilities[1] >= threshold)):
            index, label = chosen, labels[chosen]
        found.append(Classification(label, index, probabilities[index], (*probabilities,)))
    return found
