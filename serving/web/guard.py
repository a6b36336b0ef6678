"""Checks who may use the page, and tells browsers what they may do with an answer."""

import ipaddress
import re
import socket
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_OFF = "accelerometer camera display-capture geolocation gyroscope microphone payment usb".split()
HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{name}=()" for name in _OFF),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Answers show a person's pictures. Responses that may be cached set their own header.
_DO_NOT_KEEP = "no-store"
_HOST = re.compile(r"(?:\[(?P<address>[\da-f:.]+)\]|(?P<name>[\w.-]+))(?::\d*)?", re.I | re.A)


class Guard:
    """Checks every request before an application sees it, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()):
        """`hosts` are further host names of the page, besides those of this machine."""
        self._app = app
        self._hosts = {name.lower() for name in ("localhost", socket.gethostname(), *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", _DO_NOT_KEEP)
            await send(message)

        app = self._refusal(scope["method"], Headers(scope=scope)) or self._app
        return await app(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> ASGIApp | None:
        host = headers.get("host", "")
        if not self._is_known(_name(host)):
            return PlainTextResponse(
                f"This page has another name than “{host[:100]}”. If the name is right, start the"
                " page with it in --allowed_hosts.\n",
                400,
            )
        if method not in ("GET", "HEAD") and _is_foreign(headers, host):
            return PlainTextResponse("Pictures are not taken from other web sites.\n", 403)
        return None

    def _is_known(self, name: str) -> bool:
        """Return whether the name cannot belong to another site.

        Another site can point its own name at this machine (DNS rebinding), but not an address.
        """
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


def _name(host: str) -> str:
    """Return the name or address in a Host header in lower case, or ""."""
    match = _HOST.fullmatch(host)
    return (match["address"] or match["name"]).lower() if match else ""


def _is_foreign(headers: Headers, host: str) -> bool:
    """Return whether a browser says that a page of another site sent this."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")  # older browsers, and pages without TLS
    return bool(origin) and origin.partition("://")[2].lower() != host.lower()
