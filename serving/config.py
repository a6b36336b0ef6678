"""Configuration files, in the protobuf text formats that TensorFlow Serving reads.

    models.config       ModelServerConfig      --model_config_file
    batching.config     BatchingParameters     --batching_parameters_file
    monitoring.config   MonitoringConfig       --monitoring_config_file
    ssl.config          SSLConfig              --ssl_config_file

`tensorflow-serving-api` has the first message only. The others are declared here, by their fields
in session_bundle_config.proto, monitoring_config.proto and ssl_config.proto.
"""

import dataclasses
import pathlib
from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

from serving import cli
from serving.protocol import ModelServerConfig

M = TypeVar("M", bound=Message)

_PACKAGE = "tensorflow.serving"
_NUMBER, _TEXT, _FLAG = (f".google.protobuf.{kind}Value" for kind in ("Int64", "String", "Bool"))
# Fields by message: a wrapper or another message by its name, else a type of the language; "*"
# stands for a repeated one.
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": _NUMBER,
        "batch_timeout_micros": _NUMBER,
        "max_enqueued_batches": _NUMBER,
        "num_batch_threads": _NUMBER,
        "thread_pool_name": _TEXT,
        "allowed_batch_sizes": "int64*",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": _FLAG,
        "max_execution_batch_size": _NUMBER,
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": f".{_PACKAGE}.PrometheusConfig"},
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
}


def _declared() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="serving/config.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    field_type = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(fields.items(), 1):
            plain = kind.rstrip("*")
            field = message.field.add(name=key, number=number)
            field.label = (
                field_type.LABEL_REPEATED if kind.endswith("*") else field_type.LABEL_OPTIONAL
            )
            if plain.startswith("."):
                field.type, field.type_name = field_type.TYPE_MESSAGE, plain
            else:
                field.type = getattr(field_type, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()  # apart from the process's, which may have the real one
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_DECLARED = _declared()

# Each is a thread of the server; queues of 1,000 would else ask for more than a machine has use
# for.
MOST_REQUESTS = 1024


@dataclasses.dataclass(frozen=True)
class Batching:
    """How requests are joined into batches; the defaults are those of the embedded server.

    Attributes:
        max_batch_size: images in a request, at most.
        max_execution_batch_size: images in a batch; a larger request is split into several. From
            16 on a CPU gains nothing, and while half of 32 clients are answered, the other half's
            images are computed.
        batch_timeout_micros: how long a request waits for others to join; one that is alone, and
            not too large for a batch, waits for nobody.
        max_enqueued_batches: that wait for a thread; when they are full, UNAVAILABLE.
        num_batch_threads: batches that run at the same time. Each keeps two cores busy; more of
            them only take each other's caches.
        allowed_batch_sizes: that a batch is filled up to; empty for any.
        requests: that are let in; more of them are UNAVAILABLE. A file does not say: as many as its
            queue and threads hold.
    """

    max_batch_size: int = 4096
    max_execution_batch_size: int = 16
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 128  # so many has the largest request
    num_batch_threads: int = dataclasses.field(default_factory=lambda: max(1, cli.cores() // 2))
    allowed_batch_sizes: tuple[int, ...] = ()
    requests: int = 128


def read_models(path: str) -> ModelServerConfig:
    """Reads what is to be served; raises UserError as `_read` does."""
    return _read(path, "model_config_file", ModelServerConfig)


def read_batching(path: str) -> Batching:
    """Reads batching parameters; those that the file leaves out are TensorFlow Serving's.

    Raises:
        UserError: as `_read`; or a value is out of range or not supported here.
    """
    flag = "batching_parameters_file"
    found = _read(path, flag, _DECLARED["BatchingParameters"])
    values = {"max_batch_size": 1000, "max_enqueued_batches": 10, "num_batch_threads": cli.cores()}
    for name in (*values, "batch_timeout_micros"):
        if found.HasField(name):
            values[name] = getattr(found, name).value
    largest = values["max_batch_size"]
    if found.enable_large_batch_splitting.value and found.HasField("max_execution_batch_size"):
        largest = found.max_execution_batch_size.value
    sizes = tuple(found.allowed_batch_sizes)
    held = largest * (values["num_batch_threads"] + values["max_enqueued_batches"])
    batching = Batching(
        **values,
        max_execution_batch_size=largest,
        allowed_batch_sizes=sizes,
        requests=min(held, MOST_REQUESTS),
    )
    for name, least in {"max_execution_batch_size": 1, "max_enqueued_batches": 1,
                        "num_batch_threads": 1, "batch_timeout_micros": 0}.items():  # fmt: skip
        if getattr(batching, name) < least:
            raise cli.UserError(f"--{flag}={path}: {name} must be at least {least}")
    if largest > batching.max_batch_size:
        raise cli.UserError(
            f"--{flag}={path}: max_execution_batch_size, {largest}, must be at most"
            f" max_batch_size, {batching.max_batch_size}"
        )
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != largest):
        raise cli.UserError(
            f"--{flag}={path}: allowed_batch_sizes must rise and end with the largest batch,"
            f" {largest}"
        )
    if found.pad_variable_length_inputs:
        raise cli.UserError(
            f"--{flag}={path}: pad_variable_length_inputs is for TensorFlow Serving only: leave it"
            " out"
        )
    return batching


def read_metrics_path(path: str) -> str:
    """Returns where metrics are served, "" for nowhere; raises UserError as `_read` does."""
    found = _read(path, "monitoring_config_file", _DECLARED["MonitoringConfig"]).prometheus_config
    return (found.path or "/monitoring/prometheus/metrics") if found.enable else ""


class Tls:
    """The keys of an encrypted server.

    Attributes:
        key, certificate: of the server, PEM.
        authority: PEM certificates that clients' are checked by; None for the system's.
        verify_clients: whether a client must have a certificate.
    """

    def __init__(self, path: str):
        """Reads an SSLConfig; raises UserError as `_read` does, or if it lacks a key."""
        found = _read(path, "ssl_config_file", _DECLARED["SSLConfig"])
        for name in ("server_key", "server_cert"):
            if "-----BEGIN" not in getattr(found, name):
                raise cli.UserError(
                    f"--ssl_config_file={path}: {name} holds no PEM text: put the contents of the"
                    " file there, with \\n for its line ends"
                )
        if found.client_verify and not found.custom_ca:
            raise cli.UserError(
                f"--ssl_config_file={path}: client_verify needs custom_ca, the certificates that"
                " clients' are checked by"
            )
        self.key, self.certificate = found.server_key.encode(), found.server_cert.encode()
        self.authority = found.custom_ca.encode() or None
        self.verify_clients = found.client_verify


def _read(path: str, flag: str, kind: type[M]) -> M:
    """Reads a message; raises UserError if the file cannot be read or parsed."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return text_format.Parse(text, kind())
    except OSError as error:
        raise cli.UserError(f"--{flag}={path}: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise cli.UserError(f"--{flag}={path} is no {kind.DESCRIPTOR.name}: {error}") from None
