"""Clients of one model on a server: one that blocks, and one for asyncio."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfpipe.protocol import messages
from tfpipe.protocol.classification import (
    ERROR_OUTPUT,
    IMAGE_INPUT,
    IMAGE_OUTPUTS,
    Classification,
)
from tfpipe.protocol.connection_settings import ClientTls, ConnectionSettings
from tfpipe.protocol.model_calls import BUSY, ModelCalls
from tfpipe.protocol.transport import (
    InputError,
    Metadata,
    ServerError,
    Target,
    VersionStatus,
    finish,
)

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


class BaseClient:
    """One model on a server.

    Attributes:
        server: the address.
        model_name: name of the model.
        signature_name: the signature that is run if a call names none.
        timeout: seconds for each request.
    """

    is_async = False

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
        self.server = server
        self.model_name = model_name
        self.signature_name = signature_name
        self.timeout = timeout
        settings = ConnectionSettings(
            timeout=timeout,
            tls=ClientTls.of(tls, ca_file, cert_file, key_file),
            metadata=metadata or {},
            token=token,
            token_file=token_file,
            compression=compression,
            keepalive=keepalive,
            channel_options=channel_options or {},
        )
        target = Target.of(model_name, version, version_label)
        self._calls = ModelCalls(
            server, target, signature_name, settings, retries, is_async=self.is_async
        )


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
        finish(self._calls.close())

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
        return finish(self._calls.predict(inputs, outputs, signature_name)).outputs

    def metadata(self) -> Metadata:
        """Return the version that is served now, and its signatures.

        Raises:
            ServerError: there is no answer, or the request is refused.
        """
        return finish(self._calls.metadata())

    def get_model_status(self) -> list[VersionStatus]:
        """Return the states of the model's versions, or of the client's version alone.

        Raises:
            ServerError: there is no answer, or the server does not know the model.
        """
        return finish(self._calls.status())

    def is_server_ready(self) -> bool:
        """Return whether the server takes requests now, and serves the client's model and version.

        A server that does not answer is not ready; nothing is sent again.

        Raises:
            ServerError: waiting cannot help, such as at the port of another protocol.
        """
        return finish(self._calls.is_ready())

    @property
    def signatures(self) -> dict[str, messages.SignatureDef]:
        """The signatures of the version that is served now, or was within the last second."""
        return finish(self._calls.signatures())

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the probabilities, of the version that is served now.

        Raises:
            ServerError: there is no answer, or the model has no signature `classify`.
        """
        return finish(self._calls.labels())

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
        return finish(self._calls.classify(images, threshold))

    def check_signature(self) -> None:
        """Raise ServerError if the signature does not map images to classes."""
        finish(self._calls.check_signature())


class AsyncClient(BaseClient):
    """`Client` for asyncio: each method is a coroutine. To be used in one event loop.

    async with AsyncClient("127.0.0.1:8500", "demo") as client:
        answers = await asyncio.gather(*(client.predict({"image_bytes": [f]}) for f in files))

    REST requests run in the event loop's threads.
    """

    is_async = True

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._calls.close()

    async def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] = (), *, signature_name: str = ""
    ) -> dict[str, np.ndarray]:
        """Run a signature; see `Client.predict`."""
        return (await self._calls.predict(inputs, outputs, signature_name)).outputs

    async def metadata(self) -> Metadata:
        """Return the version that is served now; see `Client.metadata`."""
        return await self._calls.metadata()

    async def get_model_status(self) -> list[VersionStatus]:
        """Return the states of the model's versions; see `Client.get_model_status`."""
        return await self._calls.status()

    async def is_server_ready(self) -> bool:
        """Return whether the server takes requests now; see `Client.is_server_ready`."""
        return await self._calls.is_ready()

    async def signatures(self) -> dict[str, messages.SignatureDef]:
        """Return the signatures; see `Client.signatures`."""
        return await self._calls.signatures()

    async def labels(self) -> tuple[str, ...]:
        """Return the class names; see `Client.labels`."""
        return await self._calls.labels()

    async def classify_images(
        self, images: Sequence[bytes], *, threshold: float | None = None
    ) -> list[Classification | ServerError]:
        """Classify images; see `Client.classify_images`."""
        return await self._calls.classify(images, threshold)
