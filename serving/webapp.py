"""Show a web page that classifies pictures with a model.

    tfpipe webapp --server=127.0.0.1:8500 --model_name=demo --port=8080

People drop, paste, choose or photograph pictures at http://127.0.0.1:8080; scripts post them to
/api/classify. The page asks a running server: this project's (tfpipe serve) or
TensorFlow Serving. It keeps no picture. SIGTERM and Ctrl-C let requests under way finish.
"""

import dataclasses
import pathlib

from serving import client
from serving.connection_options import ConnectionOptions
from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.core.signals import Signals

# Connections at a time; each request is bounded by Limits.
_CONNECTIONS = 256
_GRACE_S = 10
# Retries of a request to the server: nobody waits long for a page.
_RETRIES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConnectionOptions):
    """The flags of this command."""

    host: str = option(
        "address to listen at; 0.0.0.0 for all, and phones in the same network",
        "127.0.0.1",
        group="Page",
        common=True,
    )
    port: int = option(
        "port of the page; 0 takes a free one", 8080, minimum=0, maximum=65535, common=True
    )
    allowed_hosts: str = option(
        "further host names of the page, NAME,...; addresses, localhost and this machine's name are"
        " always allowed",
        "",
    )
    trusted_proxy: str = option(
        "address of a reverse proxy, whose X-Forwarded-For names the client; empty for none", ""
    )
    samples: str = option(
        "folder of pictures to try, at most 12; empty for drawn ones", "", common=True
    )
    max_request_mb: int = option("MB of the pictures of a request", 16, minimum=1, maximum=48)
    max_images: int = option("pictures in a request", 16, minimum=1, maximum=256)
    rate: int = option("pictures a minute from one client; 0 for no limit", 120, minimum=0)
    concurrency: int = option("requests to the model at the same time", 8, minimum=1)


def main(options: Options) -> None:
    """Serve the page until a signal comes."""
    try:
        from serving.http_server import HttpServer, listen
        from serving.web import app
    except ModuleNotFoundError as error:
        raise UserError(
            f"the page needs the package {error.name}: pip install 'tfpipe[web]'"
        ) from None
    from serving.web.limits import Limits
    from serving.web.model import ModelClient
    from serving.web.sample_pictures import DRAWN, SamplePictures

    limits = Limits(
        request_bytes=options.max_request_mb << 20,
        images=options.max_images,
        rate=options.rate,
        concurrency=options.concurrency,
        requests=2 * options.concurrency,
    )
    if 0 < limits.rate < limits.images:
        raise UserError(
            f"--rate={options.rate} allows no request of --max_images={options.max_images}"
            " pictures: set it at least as high, or to 0 for no limit",
            status=2,
        )
    folder = pathlib.Path(options.samples) if options.samples else DRAWN
    samples = SamplePictures(folder, max_bytes=limits.request_bytes)
    model = ModelClient(lambda: client.connect(options, retries=_RETRIES))
    try:
        sock = listen(options.host, options.port)
    except OSError as error:
        raise UserError(
            f"cannot listen at {options.host}:{options.port}: {error.strerror} (--host, --port)"
        ) from None
    site = app.Site(model, samples, limits)
    hosts = options.allowed_hosts.split(",") if options.allowed_hosts else []
    server = HttpServer(
        app.build(site, hosts),
        sock,
        grace_s=_GRACE_S,
        proxy_headers=bool(options.trusted_proxy),
        forwarded_allow_ips=options.trusted_proxy,
        limit_concurrency=_CONNECTIONS,
    )
    signals = Signals()
    server.start()
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    terminal.say(f"the page for {options.model_name} is at http://{shown}:{port}")
    signals.wait()
    server.close()
    site.close()
    model.close()


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
