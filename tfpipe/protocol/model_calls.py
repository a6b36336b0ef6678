"""The calls that the blocking client and that for asyncio share."""

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from tfpipe.core.errors import UserError
from tfpipe.protocol import messages
from tfpipe.protocol.classification import (
    IMAGE_INPUT,
    IMAGE_KEY,
    IMAGE_OUTPUTS,
    LABELS_OUTPUT,
    Classification,
    check_images,
    classifications,
)
from tfpipe.protocol.connection_settings import ConnectionSettings
from tfpipe.protocol.grpc_connection import Grpc, is_target
from tfpipe.protocol.input_arrays import read_inputs
from tfpipe.protocol.rest_connection import Rest
from tfpipe.protocol.transport import (
    InputError,
    Metadata,
    PredictResult,
    ServerError,
    Target,
    VersionStatus,
    repeated,
    unknown_form,
)

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


def connect(server: str, settings: ConnectionSettings, *, is_async: bool = False) -> Grpc | Rest:
    """Return a connection that opens at the first call.

    Args:
        server: HOST:PORT or another target of gRPC, such as dns:///HOST:PORT; http://HOST:PORT or
            https://HOST:PORT for REST.
        settings: how it is asked.
        is_async: whether the methods wait in an event loop; otherwise they block.

    Raises:
        UserError: `server` has no such form, or a file of the settings cannot be read.
    """
    scheme = server.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return Rest(server, settings, is_async=is_async)
    if is_target(server):
        return Grpc(server, settings, is_async=is_async)
    raise unknown_form(server)


class ModelCalls:
    """The calls to one model, for a client that blocks and one for asyncio.

    The coroutines wait only where the connection does.

    Attributes:
        server: the address.
        signature_name: the signature that is run if a call names none.
    """

    def __init__(
        self,
        server: str,
        target: Target,
        signature_name: str,
        settings: ConnectionSettings,
        retries: int,
        *,
        is_async: bool,
    ):
        """Connect at the first call; see `BaseClient`."""
        self.server, self.signature_name = server, signature_name
        self._target, self._timeout, self._retries = target, settings.timeout, retries
        self._connection = connect(server, settings, is_async=is_async)
        self._known: dict[Target, tuple[Metadata, float]] = {}
        self._labels: tuple[int, tuple[str, ...]] = (0, ())

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def predict(
        self,
        inputs: Mapping[str, object],
        outputs: Sequence[str],
        signature_name: str,
        version: int = 0,
    ) -> PredictResult:
        """Run a signature, in `version` if it is given; see `Client.predict`."""
        if isinstance(outputs, str):
            raise InputError(f"the outputs are {outputs!r}: give a list of names")
        arrays = read_inputs(inputs)
        target = self._target.at(version) if version else self._target

        async def describe(anew: bool) -> Metadata:
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

    async def metadata(self) -> Metadata:
        """Return the version that is served now; see `Client.metadata`."""
        return await self._call(lambda: self._served(self._target, anew=True))

    async def _served(self, target: Target, *, anew: bool = False) -> Metadata:
        """Return what is served; unless it is asked anew, the answer may be a second old."""
        found, until = self._known.get(target, (None, 0.0))
        if anew or found is None or time.monotonic() >= until:
            found = await self._connection.metadata(target)
            self._known[target] = (found, time.monotonic() + _KNOWN_S)
        return found

    async def signatures(self) -> dict[str, messages.SignatureDef]:
        """Return the signatures; see `Client.signatures`."""
        return (await self._call(lambda: self._served(self._target))).signatures

    async def _labels_of(self, version: int) -> tuple[str, ...]:
        """Return the class names of a version."""
        known, labels = self._labels
        if known != version or not version:
            blank = messages.Example()
            blank.features.feature[IMAGE_KEY].bytes_list.value.append(b"")
            inputs = {"inputs": [blank.SerializeToString()]}
            answer = await self.predict(inputs, ["classes"], "classify", version)
            names = answer.outputs["classes"][0].tolist()
            labels = tuple(name.decode(errors="replace") for name in names)
            self._labels = (version, labels)
        return labels

    async def labels(self) -> tuple[str, ...]:
        """Return the class names; see `Client.labels`."""
        served = await self._call(lambda: self._served(self._target))
        return await self._labels_of(served.version)

    async def status(self) -> list[VersionStatus]:
        """Return the states of the versions; see `Client.get_model_status`."""
        found = await self._call(lambda: self._connection.status(self._target))
        states = messages.ModelVersionStatus.State
        return [
            VersionStatus(each.version, states.Name(each.state), each.status.error_message)
            for each in found.model_version_status
        ]

    async def is_ready(self) -> bool:
        """Return whether requests are taken; see `Client.is_server_ready`."""
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

    async def classify(
        self, images: Sequence[bytes], threshold: float | None
    ) -> list[Classification | ServerError]:
        """Classify images; see `Client.classify_images`."""
        check_images(images)
        if not images:
            return []
        try:
            answer = await self.predict({IMAGE_INPUT: [bytes(each) for each in images]}, (), "")
            if not set(IMAGE_OUTPUTS) <= set(answer.outputs):
                raise ServerError(grpc.StatusCode.FAILED_PRECONDITION, "outputs are missing")
        except ServerError as error:
            refused = error.code is grpc.StatusCode.INVALID_ARGUMENT
            if refused or error.code is grpc.StatusCode.FAILED_PRECONDITION:
                await self.check_signature()
            if not refused:
                raise
            if len(images) == 1:
                return [error]
            # This model reports no error for each image: halve the batch until the bad one is
            # alone.
            half = len(images) // 2
            first = await self.classify(images[:half], threshold)
            return first + await self.classify(images[half:], threshold)
        outputs, labels = answer.outputs, ()
        try:
            if LABELS_OUTPUT in outputs:
                if threshold is not None:
                    raise UserError(
                        f"`threshold={threshold:g}`: images of the model {self._target.name!r} may"
                        " have several classes, each with its own threshold there: leave it out"
                    )
                labels = await self._labels_of(answer.version)
            elif threshold is not None:
                self._check_threshold(threshold, outputs["probabilities"].shape[1])
                chosen = outputs["probabilities"][:, 1] >= threshold
                if (chosen != outputs["class_index"]).any():
                    labels = await self._labels_of(answer.version)
            return classifications(outputs, len(images), threshold, labels, self.server)
        except ServerError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            served = await self._call(lambda: self._served(self._target, anew=True))
            if served.version == answer.version:
                raise
            return await self.classify(images, threshold)  # another version has replaced it
        except (ValueError, IndexError, TypeError, AttributeError):
            raise self._unreadable() from None

    def _check_threshold(self, threshold: float, classes: int) -> None:
        if classes != 2:
            raise UserError(
                f"`threshold={threshold:g}` is for two classes, and the model {self._target.name!r}"
                f" has {classes}: leave it out"
            )

    async def check_signature(self) -> None:
        """Raise ServerError if the signature does not map images to classes."""
        fitting = [
            name
            for name, definition in sorted((await self.signatures()).items())
            if set(definition.inputs) == {IMAGE_INPUT}
            and set(IMAGE_OUTPUTS) <= set(definition.outputs)
        ]
        if self.signature_name not in fitting:
            raise ServerError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"model {self._target.name!r} has no signature {self.signature_name!r} that"
                f" classifies images; those that do: {', '.join(fitting) or 'none'}",
            )

    def _unreadable(self) -> ServerError:
        return ServerError(
            grpc.StatusCode.INTERNAL,
            f"{self.server} answers with outputs that cannot be read or do not fit the request",
        )

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await repeated(call, self._retries, self._connection.sleep)
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
            return f"{self.server} did not answer within {self._timeout:g} s"
        if code is grpc.StatusCode.NOT_FOUND:
            version = f"version {self._target.version} of " if self._target.version else ""
            return f"{self.server} serves no {version}model {self._target.name!r}: {details}"
        return f"{self.server} answers {code.name}: {details}"
