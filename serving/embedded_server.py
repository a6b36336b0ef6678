"""The server inside a Python process."""

import gc
import pathlib
import re
import socket
import threading
import time
from concurrent import futures

import grpc

from serving import server_config as config
from serving import services
from serving.admission import AdmissionController
from serving.batching import Batcher, BatchingParameters
from serving.handlers import PredictionHandlers
from serving.model_manager import PLATFORM, ModelManager, NoVersionError
from serving.open_inference import messages as oip
from serving.open_inference.handlers import OpenInferenceHandlers
from serving.prometheus_metrics import Metrics
from serving.reflection import Reflection
from serving.served_model import LoadRules
from serving.server_options import ServerOptions
from serving.warm_up import warm_up
from serving.watcher import Watcher
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.core.memory import memory_limit
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel

# At the end, health says NOT_SERVING for the first time, so that load balancers can react; then
# requests under way have the second one to finish.
DRAIN_S = 1.0
GRACE_S = 30.0

# Threads beyond those inside the models: they answer health checks and refuse requests.
_SPARE_THREADS = 8
# Requests that may wait for one that runs, without batching.
_WAITING = 16
# The part of the memory that the messages of requests may fill.
_REQUESTS_SHARE = 0.25


class EmbeddedServer:
    """A gRPC server, and a REST server if the options name its port.

    Attributes:
        address: HOST:PORT of gRPC.
        rest_address: HOST:PORT of REST; empty for none.
        rest_scheme: "https" with encryption, else "http".
        models: what is served.
        admission: bounds the requests.
    """

    def __init__(self, options: ServerOptions):
        """Take the ports and load the models, or wait for their first versions.

        Raises:
            UserError: a port is taken, or a model cannot be loaded.
        """
        listed, batching = _models(options), _batching(options)
        metrics_path = config.read_metrics_path(options.monitoring_config_file)
        self.admission = _admission(options, batching)
        threads = self.admission.max_requests + _SPARE_THREADS
        tls = config.read_tls(options.ssl_config_file)
        self._grpc, port = _listen(options, threads, tls)
        self.address = f"{options.host}:{port}"
        rest_socket = _listen_rest(options)
        metrics = Metrics()
        self.models = _load(options, listed, batching, metrics)
        self._rest, self.rest_address, self.rest_scheme = None, "", "http"
        handlers = PredictionHandlers(
            self.models,
            self.admission,
            metrics,
            reloads=options.enable_reload_config_requests,
            labels_may_wait=options.allow_version_labels_for_unavailable_models,
        )
        self._stopping = threading.Event()
        open_inference = OpenInferenceHandlers(handlers, lambda: not self._stopping.is_set())
        if rest_socket:
            from serving.rest import RestServer

            self._rest = RestServer(
                handlers,
                open_inference,
                rest_socket,
                timeout_s=options.rest_api_timeout_in_ms / 1000,
                max_body=options.grpc_max_receive_message_mb << 20,
                threads=options.rest_api_num_threads or threads,
                cross_origin=options.rest_api_enable_cors_support,
                max_connections=options.rest_api_max_connections,
                metrics_path=metrics_path,
                tls=tls,
            )
            self.rest_address = f"{options.host}:{self._rest.port}"
            self.rest_scheme = "https" if tls else "http"
        max_bytes = options.grpc_max_receive_message_mb << 20
        services.add(handlers, self._grpc, max_bytes)
        services.add(open_inference, self._grpc, max_bytes, {oip.SERVICE: oip.REQUESTS})
        self._reflection = Reflection(self._grpc)
        self._health = services.Health()
        messages.add_HealthServicer_to_server(self._health, self._grpc)
        self._watchers = _watchers(options, self.models, listed, self._stopping)

    def start(self) -> None:
        """Begin to answer."""
        for watcher in self._watchers:
            watcher.start()
        self._grpc.start()
        self._health.open()
        if self._rest:
            self._rest.start()

    def stop(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, let those under way finish, and free everything.

        Args:
            drain_s: seconds in which health says NOT_SERVING while requests are still accepted.
        """
        self._stopping.set()
        self._health.close()
        self._reflection.close()
        time.sleep(drain_s)
        stopped = self._grpc.stop(GRACE_S)
        if self._rest:
            self._rest.close()
        stopped.wait()
        for watcher in self._watchers:
            watcher.join(GRACE_S)  # TensorFlow may crash if the process ends while it loads
        self.models.unload()


def _models(options: ServerOptions) -> messages.ModelServerConfig:
    """Return what is to be served."""
    if options.model_config_file:
        return config.read_models(options.model_config_file)
    if not options.model_base_path:
        raise UserError(
            "--model_base_path is required, or --model_config_file (--help lists the flags)",
            status=2,
        )
    found = messages.ModelServerConfig()
    found.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform=PLATFORM
    )
    return found


def _batching(options: ServerOptions) -> BatchingParameters | None:
    if not options.enable_batching:
        return None
    if options.batching_parameters_file:
        return config.read_batching(options.batching_parameters_file)
    return BatchingParameters()


def _admission(options: ServerOptions, batching: BatchingParameters | None) -> AdmissionController:
    most = options.max_inflight_request_mb << 20 or int(memory_limit() * _REQUESTS_SHARE)
    most = max(most, options.grpc_max_receive_message_mb << 20)
    if batching:
        return AdmissionController(batching.max_requests, max_bytes=most)
    running = options.grpc_max_threads
    return AdmissionController(running + _WAITING, max_concurrency=running, max_bytes=most)


def _listen(
    options: ServerOptions, threads: int, tls: config.ServerTls | None
) -> tuple[grpc.Server, int]:
    """Take the port; calls wait until the server starts."""
    server = grpc.server(
        futures.ThreadPoolExecutor(threads),
        options=[
            ("grpc.max_receive_message_length", options.grpc_max_receive_message_mb << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a port to share
            # gRPC would decompress a whole message before it checks the size; `services` does not.
            ("grpc.per_message_decompression", 0),
            *_channel_arguments(options.grpc_channel_arguments),
        ],
    )

    def add(address: str) -> int:
        if tls:
            return server.add_secure_port(address, tls.credentials())
        return server.add_insecure_port(address)

    if path := options.grpc_socket_path:
        try:
            add(f"unix:{path}")
        except RuntimeError:
            raise UserError(
                f"--grpc_socket_path={path}: no socket can be made there: the folder must exist,"
                " and the path have at most 107 characters"
            ) from None
    try:
        return server, add(f"{options.host}:{options.port}")
    except RuntimeError:
        raise _in_use("--port", options.host, options.port) from None


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Return the arguments in KEY=VALUE,KEY=VALUE; numbers are integers."""
    found = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise UserError(f"--grpc_channel_arguments={text}: {part!r} is not KEY=VALUE")
        found.append((key, int(value) if re.fullmatch(r"-?\d+", value) else value))
    return found


def _listen_rest(options: ServerOptions) -> socket.socket | None:
    """Take the port for REST, if there is one."""
    if not options.rest_api_port:
        return None
    try:
        import serving.rest  # noqa: F401
        from serving import http_server
    except ModuleNotFoundError as error:
        raise UserError(
            f"--rest_api_port needs the package {error.name}: pip install 'tfpipe[web]'"
        ) from None
    port = max(options.rest_api_port, 0)
    try:
        return http_server.listen(options.host, port)
    except OSError:
        raise _in_use("--rest_api_port", options.host, port) from None


def _in_use(flag: str, host: str, port: int) -> UserError:
    free = "-1" if flag == "--rest_api_port" else "0"
    return UserError(
        f"cannot listen at {host}:{port}, which may be in use: stop the program that listens there,"
        f" or choose another {flag} ({free} takes a free one)"
    )


def _load(
    options: ServerOptions,
    listed: messages.ModelServerConfig,
    batching: BatchingParameters | None,
    metrics: Metrics,
) -> ModelManager:
    """Load the models; the server waits until each has a version."""
    beside_traffic = threading.Event()

    def load(path: pathlib.Path, version: int) -> LoadedModel:
        wrap = {"wrap": lambda function: Batcher(function, batching)} if batching else {}
        model = LoadedModel(path, version, prefer_tflite=options.prefer_tflite_model, **wrap)
        if options.enable_model_warmup:
            try:
                warm_up(
                    model,
                    metrics,
                    iterations=max(1, options.num_request_iterations_for_warmup),
                    low_priority=beside_traffic.is_set(),
                )
            except RequestError:
                model.close()
                raise
        return model

    # Some 300,000 objects of the packages stay for good. Without this a full garbage collection
    # visits them all and stops every answer for 150 ms.
    gc.freeze()
    models = ModelManager(
        LoadRules(
            load,
            max_retries=options.max_num_load_retries,
            retry_interval_s=options.load_retry_interval_micros / 1e6,
            refuse_signature_changes=options.refuse_signature_changes,
        )
    )
    said, may_wait = "", options.allow_version_labels_for_unavailable_models
    while True:
        try:
            models.configure(listed, labels_may_wait=may_wait)
        except NoVersionError as error:
            if not options.file_system_poll_wait_seconds:
                raise UserError(error.message) from None
            if error.message != said:
                terminal.warn(f"waiting: {error.message}")
            said = error.message
            time.sleep(options.file_system_poll_wait_seconds)
        except RequestError as error:
            raise UserError(error.message) from None
        else:
            beside_traffic.set()
            return models


def _watchers(
    options: ServerOptions,
    models: ModelManager,
    listed: messages.ModelServerConfig,
    stopping: threading.Event,
) -> list[threading.Thread]:
    """Return the threads that watch the disk."""
    applied, refused, error, due = listed, None, None, 0.0

    def read_config() -> None:
        nonlocal applied, refused, error, due
        found = config.read_models(options.model_config_file)
        if found == applied:
            return
        if found == refused and time.monotonic() < due:  # each try may load a large model
            raise error
        try:
            models.configure(
                found, labels_may_wait=options.allow_version_labels_for_unavailable_models
            )
        except RequestError as caught:
            refused, error = found, caught
            due = time.monotonic() + options.load_retry_interval_micros / 1e6
            raise
        applied = found
        terminal.say(f"reloaded {options.model_config_file}")

    found = []
    if wait := options.file_system_poll_wait_seconds:
        found.append(Watcher(models.refresh, wait, stopping))
    if options.model_config_file and (wait := options.model_config_file_poll_wait_seconds):
        found.append(Watcher(read_config, wait, stopping))
    return found
