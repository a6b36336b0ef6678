"""Serves SavedModels over gRPC and REST, as TensorFlow Serving does.

    python -m serving.server --model_name=demo --model_base_path=export/demo --port=8500

The flags are named as those of tensorflow_model_server. The highest version under the base path is
served; a higher one that appears is loaded and takes its place without a pause. SIGTERM and Ctrl-C
let the calls in flight finish.
"""

import argparse
import gc
import os
import pathlib
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING

from serving import cli, sockets
from serving.flags import parse
from tfpipe.core import allocator, onednn
from tfpipe.core.signals import Signals

# What needs gRPC or TensorFlow is imported where it is used: --help and wrong flags answer at once,
# and both read how much to log when they are imported.
if TYPE_CHECKING:
    import grpc

    from serving.calls import Calls
    from serving.config import Batching, Tls
    from serving.limit import Limit
    from serving.models import Models
    from serving.protocol import ModelServerConfig
    from serving.rest import RestServer

# After its health says NOT_SERVING the server still answers for this long, so that whoever watches
# its health can turn to another one; then calls in flight have as long as the second one.
DRAIN_S = 1.0
GRACE_S = 30.0

# Threads beyond those that may be inside the models: they answer health checks and refusals.
_SPARE_THREADS = 8
# Requests that may wait for one that runs, without batching.
_WAITING = 16


def main() -> int:
    """Parses the flags, serves until a signal comes, and returns the exit status."""
    flags = parse(__doc__)
    cli.quiet(flags.verbosity)
    # Else TensorFlow takes all the memory of every GPU it sees.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    allocator.keep_freed_memory()
    onednn.use()
    from serving import config

    listed = _models(flags)
    batching = _batching(flags)
    tls = config.Tls(flags.ssl_config_file) if flags.ssl_config_file else None
    metrics_path = ""
    if flags.monitoring_config_file:
        metrics_path = config.read_metrics_path(flags.monitoring_config_file)
    limit = _limit(flags, batching)
    server, port = _listen(flags, limit, tls)
    sock = _listen_rest(flags)
    models = _load(flags, listed, batching)

    from serving.calls import Calls

    rest, metrics = None, None
    if sock:
        from serving.metrics import Metrics

        metrics = Metrics()
    calls = Calls(models, limit, metrics)
    if sock:
        from serving.rest import RestServer

        rest = RestServer(
            calls,
            sock,
            timeout_s=flags.rest_api_timeout_in_ms / 1000,
            max_body=flags.grpc_max_receive_message_mb << 20,
            threads=limit.most + _SPARE_THREADS,
            metrics=metrics,
            metrics_path=metrics_path,
        )
    _serve(flags, server, rest, calls, f"{flags.host}:{port}")
    return 0


def _models(flags: argparse.Namespace) -> "ModelServerConfig":
    """Returns what is to be served, and checks that its folders hold something."""
    from serving import config
    from serving.protocol import ModelServerConfig
    from serving.versions import version_folders

    if flags.model_config_file:
        return config.read_models(flags.model_config_file)
    if not flags.model_base_path:
        raise cli.UserError(
            "--model_base_path is required, or --model_config_file (--help lists the flags)",
            status=2,
        )
    base_path = pathlib.Path(flags.model_base_path)
    layout = f"a SavedModel lies in a numbered folder, such as {base_path / '1' / 'saved_model.pb'}"
    if not base_path.is_dir():
        raise cli.UserError(f"--model_base_path={base_path} is not a folder: {layout}")
    if not version_folders(base_path):
        raise cli.UserError(f"--model_base_path={base_path} holds no version: {layout}")
    found = ModelServerConfig()
    found.model_config_list.config.add(
        name=flags.model_name, base_path=str(base_path), model_platform="tensorflow"
    )
    return found


def _batching(flags: argparse.Namespace) -> "Batching | None":
    from serving import config

    if not flags.enable_batching:
        return None
    if flags.batching_parameters_file:
        return config.read_batching(flags.batching_parameters_file)
    return config.Batching()


def _limit(flags: argparse.Namespace, batching: "Batching | None") -> "Limit":
    """Returns how many requests are let in."""
    from serving.limit import Limit

    if batching is None:
        running = flags.grpc_max_threads
        return Limit(running + _WAITING, in_a_flood=running, at_a_time=running)
    # Half a batch is enough to be busy: the next half comes while it runs.
    half = max(1, batching.max_execution_batch_size // 2)
    return Limit(batching.requests, in_a_flood=half)


def _listen(
    flags: argparse.Namespace, limit: "Limit", tls: "Tls | None"
) -> "tuple[grpc.Server, int]":
    """Takes the port; calls wait until the server starts."""
    import grpc

    server = grpc.server(
        futures.ThreadPoolExecutor(limit.most + _SPARE_THREADS),
        options=[
            ("grpc.max_receive_message_length", flags.grpc_max_receive_message_mb << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a port to share
            # It would unpack a message whole before it looks at the size; `services` does not.
            ("grpc.per_message_decompression", 0),
        ],
    )
    address = f"{flags.host}:{flags.port}"
    try:
        if tls is None:
            return server, server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)],
            root_certificates=tls.authority,
            require_client_auth=tls.verify_clients,
        )
        return server, server.add_secure_port(address, credentials)
    except RuntimeError:
        raise _in_use("--port", flags.host, flags.port) from None


def _listen_rest(flags: argparse.Namespace):
    """Takes the port for REST, or returns None."""
    if not flags.rest_api_port:
        return None
    try:
        import serving.rest  # noqa: F401
    except ModuleNotFoundError as error:
        raise cli.UserError(
            f"--rest_api_port needs the package {error.name}: pip install 'tfpipe[web]'"
        ) from None
    port = max(flags.rest_api_port, 0)
    try:
        return sockets.listen(flags.host, port)
    except OSError:
        raise _in_use("--rest_api_port", flags.host, port) from None


def _in_use(flag: str, host: str, port: int) -> cli.UserError:
    free = "-1" if flag == "--rest_api_port" else "0"
    return cli.UserError(
        f"cannot listen at {host}:{port}, which may be in use: stop the program that listens there,"
        f" or choose another {flag} ({free} takes a free one)"
    )


def _load(
    flags: argparse.Namespace, listed: "ModelServerConfig", batching: "Batching | None"
) -> "Models":
    from serving.errors import RequestError
    from serving.models import Models
    from serving.servable import Servable  # imports TensorFlow, which takes seconds
    from serving.warm_up import warm_up

    beside_others = threading.Event()

    def load(path: pathlib.Path, version: int) -> Servable:
        gently = beside_others.is_set()
        servable = Servable(path, version, batching, gently=gently)
        if flags.enable_model_warmup:
            try:
                warm_up(servable, gently=gently)
            except RequestError:
                servable.close()
                raise
        return servable

    # What the packages brought, some 300,000 objects, stays for good: to look through all of it
    # for garbage would stop every answer for 150 ms, again and again.
    gc.freeze()
    models = Models(load)
    try:
        models.configure(listed, labels_may_wait=flags.allow_version_labels_for_unavailable_models)
    except RequestError as error:
        raise cli.UserError(error.message) from None
    beside_others.set()
    return models


def _serve(
    flags: argparse.Namespace,
    server: "grpc.Server",
    rest: "RestServer | None",
    calls: "Calls",
    address: str,
) -> None:
    """Answers calls until SIGTERM or SIGINT, then ends in an orderly way."""
    from serving import protocol, services

    services.add(calls, server, flags.grpc_max_receive_message_mb << 20)
    health = services.Health()
    protocol.add_HealthServicer_to_server(health, server)

    stop = threading.Event()
    signals = Signals()
    watches = _watches(flags, calls.models, stop)
    for watch in watches:
        watch.start()
    server.start()
    health.open()
    if rest:
        rest.start()
        cli.say(f"REST at http://{flags.host}:{rest.port}/v1/models")
    for name, versions in calls.models.served.items():
        cli.say(f"serving {name} version {', '.join(map(str, versions))} at {address}")

    signals.wait()
    stop.set()
    health.close()
    time.sleep(DRAIN_S)
    stopped = server.stop(GRACE_S)
    if rest:
        rest.close()
    stopped.wait()
    for watch in watches:
        watch.join(GRACE_S)  # TensorFlow does not like to be left in the middle of loading


def _watches(
    flags: argparse.Namespace, models: "Models", stop: threading.Event
) -> list[threading.Thread]:
    """Returns the threads that look for what has changed on disk."""
    found = []
    if flags.file_system_poll_wait_seconds:
        wait = flags.file_system_poll_wait_seconds
        found.append(threading.Thread(target=models.watch, args=(wait, stop), daemon=True))
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds:
        found.append(threading.Thread(target=_reread, args=(flags, models, stop), daemon=True))
    return found


def _reread(flags: argparse.Namespace, models: "Models", stop: threading.Event) -> None:
    """Reads --model_config_file again and again; what is wrong with it is told, once."""
    from serving import config
    from serving.errors import RequestError

    before, told = config.read_models(flags.model_config_file), ""
    while not stop.wait(flags.model_config_file_poll_wait_seconds):
        try:
            found = config.read_models(flags.model_config_file)
            if found != before:
                models.configure(found)
                cli.say(f"reloaded {flags.model_config_file}")
            before, told = found, ""
        except (cli.UserError, RequestError) as error:
            if str(error) != told:
                cli.error(error)
            told = str(error)


if __name__ == "__main__":
    cli.run(main)
