"""Clients of one model on a server: one that blocks, and one for asyncio."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfpipe.protocol import messages
from tfpipe.protocol.base_client import BUSY, BaseClient
from tfpipe.protocol.classification import (
    ERROR_OUTPUT,
    IMAGE_INPUT,
    IMAGE_OUTPUTS,
    Classification,
)
from tfpipe.protocol.transport import InputError, Metadata, ServerError, VersionStatus, finish

__all__ = [
    "BUSY",
    "ERROR_OUTPUT",
    "IMAGE_INPUT",
    "IMAGE_OUTPUTS",
    "AsyncClient",
    "Classification",
    "Client",
    "InputError",
    "ServerError",
    "VersionStatus",
]


class Client(BaseClient):
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

    def metadata(self) -> Metadata:
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


class AsyncClient(BaseClient):
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

    async def metadata(self) -> Metadata:
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
