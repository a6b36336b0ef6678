"""The flags that select a server and a model."""

import dataclasses

from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.protocol import messages
from tfpipe.protocol.connection_settings import ClientTls, ConnectionSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """The flags that select a server and a model."""

    server: str = option(
        "gRPC address HOST:PORT, dns:///HOST:PORT for all addresses of a host in turn, or"
        " http://HOST:PORT for REST",
        "127.0.0.1:8500",
        group="Connection",
        common=True,
    )
    model_name: str = option("name of the model", "default", common=True)
    signature_name: str = option(
        "the signature to run", messages.DEFAULT_SIGNATURE, alias="signature"
    )
    version: int = option("number of the version; 0 for the highest", 0, minimum=0, common=True)
    version_label: str = option("label of the version, instead of its number", "")
    timeout: float = option("seconds to wait for each answer", 10.0, minimum=0.001, common=True)
    tls: bool = option("use gRPC over TLS; the files below imply it", False)
    ca_file: str = option("PEM certificates that check the server's", "")
    cert_file: str = option("the client's own PEM certificate", "")
    key_file: str = option("its PEM key", "")
    token_file: str = option(
        "file with a token, sent as `authorization: Bearer TOKEN`; use TLS with it", ""
    )
    metadata: tuple[str, ...] = option(
        "KEY=VALUE to send with each request, as gRPC metadata or HTTP header", ()
    )
    compression: str = option(
        "compression of requests", "none", choices=("none", "gzip", "deflate")
    )
    keepalive: float = option(
        "seconds between two pings of an idle gRPC connection; 0 for none", 0.0, minimum=0
    )

    def settings(self) -> ConnectionSettings:
        """Return how the server is asked; raises UserError if a flag has no use."""
        return ConnectionSettings(
            timeout=self.timeout,
            tls=ClientTls.of(self.tls, self.ca_file, self.cert_file, self.key_file),
            metadata=self.read_metadata(),
            token_file=self.token_file,
            compression=self.read_compression(),
            keepalive=self.keepalive,
        )

    def read_metadata(self) -> dict[str, str]:
        """Return `metadata` by key; raises UserError if one is not KEY=VALUE."""
        found = {}
        for each in self.metadata:
            key, equals, value = each.partition("=")
            if not key or not equals:
                raise UserError(f"--metadata={each} is not KEY=VALUE", status=2)
            found[key] = value
        return found

    def read_compression(self) -> str:
        """Return `compression`, "" for none."""
        return self.compression.removeprefix("none")
