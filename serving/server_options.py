"""The flags of the embedded server, named as those of tensorflow_model_server."""

import dataclasses
import os

from tfpipe.core.options import option

_CORES = len(os.sched_getaffinity(0))
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


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """The flags of `python -m serving.server`."""

    model_name: str = option("name of the model in requests", "default")
    model_base_path: str = option("folder of the model's numbered versions", "")
    model_config_file: str = option(
        "a ModelServerConfig with several models, instead of the two flags above", ""
    )
    model_config_file_poll_wait_seconds: int = option(
        "seconds between two reads of that file; 0 for one read", 0, minimum=0
    )
    host: str = option("address to listen at; 0.0.0.0 for all", "127.0.0.1")
    port: int = option("port for gRPC; 0 takes a free one", 8500, minimum=0, maximum=65535)
    rest_api_port: int = option(
        "port for REST and metrics; 0 for none, -1 takes a free one", 0, minimum=-1, maximum=65535
    )
    rest_api_timeout_in_ms: int = option(
        "limit of a REST request in ms: to arrive, and then to be answered", 30_000, minimum=1
    )
    rest_api_max_connections: int = option(
        "REST connections at the same time; more are refused", 512, minimum=1
    )
    enable_batching: bool = option("join requests into batches", True)
    batching_parameters_file: str = option(
        "a BatchingParameters file; empty for values that suit a CPU", ""
    )
    monitoring_config_file: str = option("a MonitoringConfig file: the path of the metrics", "")
    ssl_config_file: str = option(
        "an SSLConfig file, for gRPC and REST; empty for no encryption", ""
    )
    enable_model_warmup: bool = option(
        "run the warm-up requests of a version before it becomes available", True
    )
    allow_version_labels_for_unavailable_models: bool = option(
        "start even if the version of a label cannot be served", False
    )
    grpc_max_threads: int = option(
        "requests that run at the same time without batching", 4 * _CORES, minimum=1
    )
    grpc_max_receive_message_mb: int = option("largest request in MiB", 64, minimum=1, maximum=2047)
    tensorflow_inter_op_parallelism: int = option(
        "operations that run at the same time, which bounds the images that are decoded at the same"
        " time; 0 for one a core, fewer where the memory is small",
        0,
        minimum=0,
    )
    file_system_poll_wait_seconds: float = option(
        "seconds between two looks for new versions; 0 for never", 1.0, minimum=0
    )
    max_num_load_retries: int = option(
        "how often a version that cannot be loaded is tried again", 5, minimum=0
    )
    load_retry_interval_micros: int = option(
        "microseconds between two such tries", 60_000_000, minimum=0
    )
    refuse_signature_changes: bool = option(
        "keep the old version if a signature of it is missing or differs in the new one, until the"
        " old one's folder is removed",
        True,
    )
    enable_reload_config_requests: bool = option(
        "answer HandleReloadConfigRequest, by which a client chooses what is served", False
    )
