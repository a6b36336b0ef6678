"""How a server is asked: time, encryption, metadata, compression."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from tfpipe.core.errors import UserError

COMPRESSIONS = ("", "gzip", "deflate")

_METADATA_KEY = re.compile("[0-9A-Za-z_.-]+")
_METADATA_VALUE = re.compile("[ -~]*")
_TOKEN = re.compile("[!-~]+")


class ClientTls(NamedTuple):
    """PEM files: what checks the server's certificate, and the client's own; "" for none."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @classmethod
    def of(cls, tls: bool, *files: str) -> "ClientTls | None":
        """Return the certificates; None for no encryption: neither `tls` nor a file is given."""
        return cls(*files) if tls or any(files) else None


@dataclasses.dataclass(frozen=True)
class ConnectionSettings:
    """How a server is asked.

    Attributes:
        timeout: seconds for each call.
        tls: the certificates; None for gRPC without encryption.
        metadata: sent with each request: gRPC metadata, or HTTP headers.
        token: sent as `authorization: Bearer TOKEN`; "" for none.
        token_file: a file with the token, read for each request, because tokens are renewed.
        compression: "gzip", "deflate" (gRPC only) or "" for none.
        keepalive: seconds between two pings of an idle gRPC connection; 0 for none.
        channel_options: arguments of the gRPC channel, before those of this module.
    """

    timeout: float = 10.0
    tls: ClientTls | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    token: str = ""
    token_file: str = ""
    compression: str = ""
    keepalive: float = 0.0
    channel_options: Mapping[str, int | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Raise UserError if a value cannot be used."""
        if not 0 < self.timeout < math.inf:
            raise UserError(f"`timeout={self.timeout:g}` is no time to wait: give seconds above 0")
        if not 0 <= self.keepalive < math.inf:
            raise UserError(f"`keepalive={self.keepalive:g}` must be seconds, or 0 for none")
        if self.compression not in COMPRESSIONS:
            raise UserError(f"`compression={self.compression}` is not one of gzip, deflate")
        if self.token and self.token_file:
            raise UserError("`token` and `token_file` are both given: leave one out")
        for key, value in self.metadata.items():
            if not _METADATA_KEY.fullmatch(key) or key.endswith("-bin"):
                raise UserError(
                    f"`metadata` has the key {key!r}: use letters, digits and -_. (not ending with"
                    " -bin)"
                )
            if not _METADATA_VALUE.fullmatch(value):
                raise UserError(f"`metadata` has a value of {key!r} that is not printable ASCII")
        self.headers()

    def headers(self) -> dict[str, str]:
        """Return the metadata of a request; raises UserError if the token cannot be read."""
        found = {key.lower(): value for key, value in self.metadata.items()}
        token = self.token
        if self.token_file:
            token = read_file(self.token_file).decode("latin-1").strip()
        if not token and not self.token_file:
            return found
        if not _TOKEN.fullmatch(token):
            where = f"the file {self.token_file}" if self.token_file else "`token`"
            raise UserError(f"{where} holds no token: it must be one word of printable ASCII")
        return found | {"authorization": f"Bearer {token}"}


def read_file(path: str) -> bytes:
    """Return the content of a file; raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
