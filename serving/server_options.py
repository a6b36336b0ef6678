"""The flags of the embedded server, named as those of tensorflow_model_server."""

import dataclasses
from typing import Any

from tfpipe.core.cores import cores
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

_CORES = cores()
# Peak of decoding the largest image that an export takes, 89 million pixels, measured for PNG, JPEG
# and progressive JPEG; and the part of the memory that decoding may use.
_DECODE_BYTES, _DECODE_SHARE = 900e6, 0.5


def decodes_within(memory: float, cores: int = _CORES) -> int:
    """Return how many images may be decoded at the same time; 0 if one a core fits.

    Args:
        memory: bytes of the machine or the container.
        cores: of this process.
    """
    found = max(1, int(memory * _DECODE_SHARE / _DECODE_BYTES))
    return found if found < cores else 0


# What the help says of flags that only tensorflow_model_server has.
_NO_EFFECT, _UNSUPPORTED = "no effect here", "not supported here"
_GROUP = "Flags that only tensorflow_model_server has"


def _no_effect(default: Any, why: str = "") -> Any:
    return option(_NO_EFFECT + (f": {why}" if why else ""), default, group=_GROUP)


def _unsupported(default: Any, instead: str) -> Any:
    return option(f"{_UNSUPPORTED}: {instead}", default, group=_GROUP)


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """The flags of `python -m serving.server`."""

    model_name: str = option(
        "name of the model in requests", "default", group="Models", common=True
    )
    model_base_path: str = option("folder of the model's numbered versions", "", common=True)
    model_config_file: str = option(
        "a ModelServerConfig with several models, instead of the two flags above", "", common=True
    )
    model_config_file_poll_wait_seconds: int = option(
        "seconds between two reads of that file; 0 for one read", 0, minimum=0
    )
    host: str = option(
        "address to listen at; 0.0.0.0 for all", "127.0.0.1", group="gRPC", common=True
    )
    port: int = option(
        "port for gRPC; 0 takes a free one", 8500, minimum=0, maximum=65535, common=True
    )
    grpc_socket_path: str = option("a unix socket where gRPC is answered too; empty for none", "")
    grpc_channel_arguments: str = option(
        "arguments of gRPC, as grpc.max_connection_age_ms=2000,grpc.keepalive_time_ms=60000", ""
    )
    rest_api_port: int = option(
        "port for REST and metrics; 0 for none, -1 takes a free one",
        0,
        minimum=-1,
        maximum=65535,
        group="REST",
        common=True,
    )
    rest_api_timeout_in_ms: int = option(
        "limit of a REST request in ms: to arrive, and then to be answered", 30_000, minimum=1
    )
    rest_api_num_threads: int = option(
        "REST requests that are answered at the same time; 0 for as many as of gRPC", 0, minimum=0
    )
    rest_api_enable_cors_support: bool = option("let web pages of all origins ask by REST", False)
    rest_api_max_connections: int = option(
        "REST connections at the same time; more are refused", 512, minimum=1
    )
    enable_batching: bool = option("join requests into batches", True, group="Batching")
    batching_parameters_file: str = option(
        "a BatchingParameters file; empty for values that suit a CPU", "", common=True
    )
    monitoring_config_file: str = option(
        "a MonitoringConfig file: the path of the metrics",
        "",
        group="Metrics and encryption",
        common=True,
    )
    ssl_config_file: str = option(
        "an SSLConfig file, for gRPC and REST; empty for no encryption", "", common=True
    )
    enable_model_warmup: bool = option(
        "run the warm-up requests of a version before it becomes available", True, group="Versions"
    )
    num_request_iterations_for_warmup: int = option(
        "how often the warm-up requests are run; 0 for once", 0, minimum=0
    )
    allow_version_labels_for_unavailable_models: bool = option(
        "start even if the version of a label cannot be served", False
    )
    grpc_max_threads: int = option(
        "requests that run at the same time without batching", 4 * _CORES, minimum=1, group="Limits"
    )
    grpc_max_receive_message_mb: int = option("largest request in MiB", 64, minimum=1, maximum=2047)
    max_inflight_request_mb: int = option(
        "MiB of all requests under way together; more are refused. While a request arrives, the"
        " largest size counts. 0 for a quarter of the memory",
        0,
        minimum=0,
    )
    tensorflow_inter_op_parallelism: int = option(
        "operations that run at the same time, which bounds the images that are decoded at the same"
        " time; 0 for one a core, fewer where the memory is small",
        0,
        minimum=0,
        group="Threads",
    )
    tensorflow_intra_op_parallelism: int = option(
        "threads of one operation; 0 for one a core", 0, minimum=0
    )
    tensorflow_session_parallelism: int = option(
        "both numbers above, instead of them; 0 for neither", 0, minimum=0
    )
    file_system_poll_wait_seconds: float = option(
        "seconds between two looks for new versions; 0 for never",
        1.0,
        minimum=0,
        group="Versions",
        common=True,
    )
    max_num_load_retries: int = option(
        "how often a version that cannot be loaded is tried again", 5, minimum=0
    )
    load_retry_interval_micros: int = option(
        "microseconds between two such tries; below 0 for no wait", 60_000_000
    )
    prefer_tflite_model: bool = option(
        "serve a version's model.tflite, if it has one, instead of its SavedModel", False
    )
    refuse_signature_changes: bool = option(
        "keep the old version if a signature of it is missing or differs in the new one, until the"
        " old one's folder is removed",
        True,
    )
    enable_reload_config_requests: bool = option(
        "answer HandleReloadConfigRequest, by which a client chooses what is served", False
    )
    version: bool = option("print the versions and end", False, group="Other")
    use_alts_credentials: bool = _unsupported(False, "use --ssl_config_file")
    saved_model_tags: str = _unsupported("serve", "graphs with this tag are served")
    enable_grpc_healthcheck_service: bool = _no_effect(True, "health is always answered")
    enable_per_model_batching_parameters: bool = _no_effect(False)
    enable_profiler: bool = _no_effect(False)
    enable_serialization_as_tensor_content: bool = _no_effect(False)
    enable_signature_method_name_check: bool = _no_effect(False)
    flush_filesystem_caches: bool = _no_effect(True)
    mixed_precision: str = _no_effect("")
    num_load_threads: int = _no_effect(0, "versions are loaded one by one")
    num_unload_threads: int = _no_effect(0)
    num_tflite_interpreters_per_pool: int = _no_effect(1)
    num_tflite_pools: int = _no_effect(1, "a TFLite model has one interpreter, on all cores")
    per_process_gpu_memory_fraction: float = _no_effect(0.0, "a GPU's memory is taken as needed")
    platform_config_file: str = _no_effect("")
    remove_unused_fields_from_bundle_metagraph: bool = _no_effect(True)
    skip_initialize_tpu: bool = _no_effect(False)
    tensorflow_session_config_file: str = _no_effect("")
    thread_pool_factory_config_file: str = _no_effect("")
    xla_cpu_compilation_enabled: bool = _no_effect(False)
    xla_gpu_compilation_enabled: bool = _no_effect(False)


def check(options: ServerOptions) -> str:
    """Return a warning that names the given flags without an effect; "" for none.

    Raises:
        UserError: a given flag is not supported or contradicts another one, and the server would
            not be what was asked for.
    """
    if options.batching_parameters_file and not options.enable_batching:
        raise UserError(
            "--batching_parameters_file needs batching: leave out --enable_batching=false", status=2
        )
    if options.tensorflow_session_parallelism and (
        options.tensorflow_inter_op_parallelism or options.tensorflow_intra_op_parallelism
    ):
        raise UserError(
            "--tensorflow_session_parallelism sets --tensorflow_inter_op_parallelism and"
            " --tensorflow_intra_op_parallelism: give either the first, or these two",
            status=2,
        )
    fields = dataclasses.fields(options)
    changed = [field for field in fields if getattr(options, field.name) != field.default]
    for field in changed:
        if field.metadata["help"].startswith(_UNSUPPORTED):
            value = getattr(options, field.name)
            raise UserError(f"--{field.name}={value} is {field.metadata['help']}", status=2)
    names = [f"--{each.name}" for each in changed if each.metadata["help"].startswith(_NO_EFFECT)]
    return f"no effect in this server: {', '.join(names)}" if names else ""
