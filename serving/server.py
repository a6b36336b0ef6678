"""Serves a SavedModel over gRPC, as TensorFlow Serving does.

    python -m serving.server --model_name=demo --model_base_path=export/demo --port=8500

The flags are named as those of tensorflow_model_server. The highest version under the base path is
served; a higher one that appears is loaded and takes its place without a pause. SIGTERM and Ctrl-C
let the calls in flight finish.
"""

import argparse
import os
import pathlib
import queue
import signal
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING

from serving import cli

# What needs gRPC or TensorFlow is imported where it is used: --help and wrong flags answer at once,
# and both read how much to log when they are imported.
if TYPE_CHECKING:
    import grpc

    from serving.versions import Model

# After its health says NOT_SERVING the server still answers for this long, so that whoever watches
# its health can turn to another one; then calls in flight have as long as the second one.
DRAIN_S = 1.0
GRACE_S = 30.0


def main() -> int:
    """Parses the flags, serves until a signal comes, and returns the exit status."""
    flags = _parse()
    cli.quiet(flags.verbosity)
    # Else TensorFlow takes all the memory of every GPU it sees.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    _check_base_path(flags.model_base_path)
    server, port = _listen(flags)
    model = _load(flags)
    say = f"serving {model.name} version {model.servable().version} at {flags.host}:{port}"
    _serve(server, model, flags.file_system_poll_wait_seconds, say)
    return 0


def _parse() -> argparse.Namespace:
    parser = cli.Parser("python -m serving.server", __doc__)
    add = parser.add_argument
    add("--model_name", metavar="NAME", default="default", help="the name that requests give")
    add(
        "--model_base_path",
        type=pathlib.Path,
        required=True,
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="the folder that holds the numbered versions",
    )
    add(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="the address to listen at; 0.0.0.0 for all",
    )
    add(
        "--port",
        type=cli.number(int, 0, 65535),
        metavar="N",
        default=8500,
        help="the port for gRPC; 0 takes a free one",
    )
    add(
        "--grpc_max_threads",
        type=cli.number(int, 1),
        metavar="N",
        default=4 * (os.cpu_count() or 1),
        help="how many calls run at the same time; others wait",
    )
    add(
        "--grpc_max_receive_message_mb",
        type=cli.number(int, 1, 2047),
        metavar="N",
        default=64,
        help="the largest request, in MiB",
    )
    add(
        "--file_system_poll_wait_seconds",
        type=cli.number(float, 0),
        metavar="S",
        default=1.0,
        help="how often to look for a new version; 0 never",
    )
    return parser.parse_args()


def _check_base_path(base_path: pathlib.Path) -> None:
    from serving.versions import version_folders

    layout = f"a SavedModel lies in a numbered folder, such as {base_path / '1' / 'saved_model.pb'}"
    if not base_path.is_dir():
        raise cli.UserError(f"--model_base_path={base_path} is not a folder: {layout}")
    if not version_folders(base_path):
        raise cli.UserError(f"--model_base_path={base_path} holds no version: {layout}")


def _listen(flags: argparse.Namespace) -> "tuple[grpc.Server, int]":
    """Takes the port; calls wait until the server starts."""
    import grpc

    server = grpc.server(
        futures.ThreadPoolExecutor(flags.grpc_max_threads),
        options=[
            ("grpc.max_receive_message_length", flags.grpc_max_receive_message_mb << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a port to share
        ],
    )
    try:
        return server, server.add_insecure_port(f"{flags.host}:{flags.port}")
    except RuntimeError:
        raise cli.UserError(
            f"cannot listen at {flags.host}:{flags.port}, which may be in use: stop the program"
            " that listens there, or choose another --port (0 takes a free one)"
        ) from None


def _load(flags: argparse.Namespace) -> "Model":
    from serving.errors import RequestError
    from serving.servable import Servable  # imports TensorFlow, which takes seconds
    from serving.versions import Model

    model = Model(flags.model_name, flags.model_base_path, load=Servable)
    try:
        model.refresh()
    except RequestError as error:
        raise cli.UserError(error.message) from None
    return model


def _serve(server: "grpc.Server", model: "Model", poll_s: float, ready: str) -> None:
    """Answers calls until SIGTERM or SIGINT, then ends in an orderly way."""
    from serving import protocol, services

    models = {model.name: model}
    protocol.add_PredictionServiceServicer_to_server(services.PredictionService(models), server)
    protocol.add_ModelServiceServicer_to_server(services.ModelService(models), server)
    health = services.Health()
    protocol.add_HealthServicer_to_server(health, server)

    stop = threading.Event()
    # Not an Event: a handler runs anywhere in the main thread, also inside Event.wait while that
    # holds the lock which Event.set needs. A SimpleQueue takes no lock that Python code holds.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.put(received))
    watch = threading.Thread(target=model.watch, args=(poll_s, stop), daemon=True)
    if poll_s:
        watch.start()
    server.start()
    health.open()
    cli.say(ready)

    signals.get()
    stop.set()
    health.close()
    time.sleep(DRAIN_S)
    server.stop(GRACE_S).wait()
    if poll_s:
        watch.join(GRACE_S)  # TensorFlow does not like to be left in the middle of loading


if __name__ == "__main__":
    cli.run(main)
