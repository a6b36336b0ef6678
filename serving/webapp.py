"""A web page that asks a model what pictures show.

    python -m serving.webapp --server=127.0.0.1:8500 --model_name=demo --port=8080

People drop, paste, choose or photograph pictures at http://127.0.0.1:8080, scripts post them to
/api/classify. The model is asked through a server that runs already: this project's
(python -m serving.server) or TensorFlow Serving. No picture is kept. SIGTERM and Ctrl-C let the
requests in flight finish.
"""

import argparse
import pathlib
import threading

from serving import cli, client
from tfpipe.core.signals import Signals

# Connections at a time; each request is bounded by Limits.
_CONNECTIONS = 256
_GRACE_S = 10
# How often the server is asked again: who waits for a page does not wait long.
_RETRIES = 2


def main() -> int:
    """Parses the flags, serves until a signal comes, and returns the exit status."""
    flags = parse()
    cli.quiet(flags.verbosity)
    try:
        import uvicorn

        from serving.web import app
    except ModuleNotFoundError as error:
        raise cli.UserError(
            f"the page needs the package {error.name}: pip install 'tfpipe[web]'"
        ) from None
    from serving.sockets import listen
    from serving.web.limits import Limits
    from serving.web.model import Model
    from serving.web.samples import DRAWN, Samples

    limits = Limits(
        request_bytes=flags.max_request_mb << 20,
        images=flags.max_images,
        rate=flags.rate,
        concurrency=flags.concurrency,
        requests=2 * flags.concurrency,
    )
    if 0 < limits.rate < limits.images:
        raise cli.UserError(
            f"--rate={flags.rate} lets nobody send --max_images={flags.max_images} pictures: set it"
            " at least as high, or to 0 for no limit",
            status=2,
        )
    folder = pathlib.Path(flags.samples) if flags.samples else DRAWN
    samples = Samples(folder, max_bytes=limits.request_bytes)
    model = Model(lambda: client.connect(flags, retries=_RETRIES))
    try:
        sock = listen(flags.host, flags.port)
    except OSError as error:
        raise cli.UserError(
            f"cannot listen at {flags.host}:{flags.port}: {error.strerror} (--host, --port)"
        ) from None
    site = app.Site(model, samples, limits)
    config = uvicorn.Config(
        app.build(site, flags.allowed_hosts),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=bool(flags.trusted_proxy),
        forwarded_allow_ips=flags.trusted_proxy,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    signals = Signals()
    # In a thread, where uvicorn leaves signals alone: it would raise them again when it has ended.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    cli.say(f"the page for {flags.model_name} is at http://{shown}:{port}")
    signals.wait()
    server.should_exit = True
    thread.join()
    site.close()
    model.close()
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line; raises UserError for wrong flags."""
    parser = cli.Parser("python -m serving.webapp", __doc__)
    add = parser.add_argument
    whole = cli.number(int, 1)
    client.connection_flags(parser)
    add(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="the address to listen at; 0.0.0.0 for all, and phones in the same network",
    )
    add(
        "--port",
        type=cli.number(int, 0, 65535),
        metavar="N",
        default=8080,
        help="the port of the page; 0 takes a free one",
    )
    add(
        "--allowed_hosts",
        type=lambda text: text.split(",") if text else [],
        metavar="NAME,...",
        default="",
        help="names it may be asked for under, beside addresses, localhost and this machine's name",
    )
    add(
        "--trusted_proxy",
        metavar="ADDRESS",
        default="",
        help="a reverse proxy's, whose X-Forwarded-For says who the client is; empty for none",
    )
    add(
        "--samples",
        metavar="DIR",
        default="",
        help="pictures to try, of which 12 are shown; empty for some drawn cats and dogs",
    )
    add("--max_request_mb", metavar="MB", type=cli.number(int, 1, 48), default=16,
        help="the pictures of a request together")  # fmt: skip
    add("--max_images", metavar="N", type=cli.number(int, 1, 256), default=16,
        help="pictures in a request")  # fmt: skip
    add("--rate", metavar="N", type=cli.number(int, 0), default=120,
        help="pictures a minute from one client; 0 for no limit")  # fmt: skip
    add("--concurrency", metavar="N", type=whole, default=8,
        help="pictures that the model is asked about at a time")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
