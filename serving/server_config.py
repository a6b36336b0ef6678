"""Configuration files in TensorFlow Serving's protobuf text formats.

    models.config       ModelServerConfig      --model_config_file
    batching.config     BatchingParameters     --batching_parameters_file
    monitoring.config   MonitoringConfig       --monitoring_config_file
    ssl.config          SSLConfig              --ssl_config_file

`tensorflow-serving-api` has only the first message. The others are declared here with the fields of
session_bundle_config.proto, monitoring_config.proto and ssl_config.proto.
"""

import contextlib
import pathlib
import ssl
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

from serving.batching import BatchingParameters
from tfpipe.core.cores import cores
from tfpipe.core.errors import UserError
from tfpipe.protocol.messages import ModelServerConfig

M = TypeVar("M", bound=Message)

_INT64, _STRING, _BOOL = (f".google.protobuf.{kind}Value" for kind in ("Int64", "String", "Bool"))
# The fields of each message in their order: the name of a message, or a type of the language; "*"
# marks a repeated field.
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "thread_pool_name": _STRING,
        "allowed_batch_sizes": "int64*",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": _BOOL,
        "max_execution_batch_size": _INT64,
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": ".tensorflow.serving.PrometheusConfig"},
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
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message).field
        for number, (name, kind) in enumerate(fields.items(), 1):
            label = "LABEL_REPEATED" if kind.endswith("*") else "LABEL_OPTIONAL"
            if kind.startswith("."):
                given = {"type": "TYPE_MESSAGE", "type_name": kind}
            else:
                given = {"type": f"TYPE_{kind.rstrip('*').upper()}"}
            declared.add(name=name, number=number, label=label, **given)
    # Not the default pool, which may have the real messages.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.rpartition(".")[2]: message for name, message in found.items()}


_DECLARED = _declared()

# Each request is a thread of the server, so a queue of 1,000 batches must not set their number.
MAX_REQUESTS = 1024


def read_models(path: str) -> ModelServerConfig:
    """Return what is to be served; raises UserError."""
    return _read(path, "model_config_file", ModelServerConfig)


def read_batching(path: str) -> BatchingParameters:
    """Return batching parameters; missing ones get TensorFlow Serving's defaults.

    Raises:
        UserError: the file cannot be read, or a value is out of range or not supported.
    """
    flag = "batching_parameters_file"
    found = _read(path, flag, _DECLARED["BatchingParameters"])
    values = {
        "max_batch_size": 1000,
        "max_enqueued_batches": 10,
        "num_batch_threads": cores(),
    }
    for name in (*values, "batch_timeout_micros"):
        if found.HasField(name):
            values[name] = getattr(found, name).value
    largest = values["max_batch_size"]
    if found.enable_large_batch_splitting.value and found.HasField("max_execution_batch_size"):
        largest = found.max_execution_batch_size.value
    sizes = tuple(found.allowed_batch_sizes)
    held = largest * (values["num_batch_threads"] + values["max_enqueued_batches"])
    batching = BatchingParameters(
        **values,
        max_execution_batch_size=largest,
        allowed_batch_sizes=sizes,
        max_requests=min(held, MAX_REQUESTS),
    )
    problem = ""
    for name, least in {"max_execution_batch_size": 1, "max_enqueued_batches": 1,
                        "num_batch_threads": 1, "batch_timeout_micros": 0}.items():  # fmt: skip
        if getattr(batching, name) < least:
            problem = f"{name} must be at least {least}"
    if largest > batching.max_batch_size:
        problem = (
            f"max_execution_batch_size, {largest}, must be at most max_batch_size,"
            f" {batching.max_batch_size}"
        )
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != largest):
        problem = f"allowed_batch_sizes must rise and end with the largest batch, {largest}"
    if found.pad_variable_length_inputs:
        problem = "pad_variable_length_inputs is for TensorFlow Serving only: leave it out"
    if problem:
        raise UserError(f"--{flag}={path}: {problem}")
    return batching


def read_metrics_path(path: str) -> str:
    """Return the path of the metrics, "" for none; raises UserError.

    Args:
        path: of a MonitoringConfig; "" for none.
    """
    if not path:
        return ""
    found = _read(path, "monitoring_config_file", _DECLARED["MonitoringConfig"]).prometheus_config
    return (found.path or "/monitoring/prometheus/metrics") if found.enable else ""


class ServerTls(NamedTuple):
    """The keys of an SSLConfig as PEM text; gRPC and REST use the same.

    Attributes:
        key: the server's private key.
        cert: its certificate, and those that have signed it.
        ca: the certificates that check the clients'; empty for none.
        verify: whether a client needs a certificate.
    """

    key: str
    cert: str
    ca: str
    verify: bool

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server."""
        return grpc.ssl_server_credentials(
            [(self.key.encode(), self.cert.encode())],
            root_certificates=self.ca.encode() or None,
            require_client_auth=self.verify,
        )

    @contextlib.contextmanager
    def uvicorn_settings(self) -> Iterator[dict[str, Any]]:
        """Yield uvicorn's settings; their files are gone afterwards."""
        with tempfile.TemporaryDirectory() as folder:  # only this user can read it
            paths = {}
            for name in ("key", "cert", "ca"):
                paths[name] = pathlib.Path(folder, name)
                paths[name].write_text(getattr(self, name), encoding="utf-8")
            yield {
                "ssl_keyfile": str(paths["key"]),
                "ssl_certfile": str(paths["cert"]),
                "ssl_ca_certs": str(paths["ca"]) if self.ca else None,
                "ssl_cert_reqs": ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE,
            }


def read_tls(path: str) -> ServerTls | None:
    """Return the keys of an SSLConfig; None for no encryption.

    Args:
        path: the file; "" for none.

    Raises:
        UserError: it cannot be read, lacks a key, or the keys do not fit.
    """
    if not path:
        return None
    found = _read(path, "ssl_config_file", _DECLARED["SSLConfig"])
    for name in ("server_key", "server_cert"):
        if "-----BEGIN" not in getattr(found, name):
            raise UserError(
                f"--ssl_config_file={path}: {name} holds no PEM text: put the contents of the"
                " file there, with \\n for its line ends"
            )
    if found.client_verify and not found.custom_ca:
        raise UserError(
            f"--ssl_config_file={path}: client_verify needs custom_ca, the certificates that"
            " check the clients'"
        )
    tls = ServerTls(found.server_key, found.server_cert, found.custom_ca, found.client_verify)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with tls.uvicorn_settings() as files:
            context.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])
            if tls.ca:
                context.load_verify_locations(files["ssl_ca_certs"])
    except (ssl.SSLError, ValueError) as error:
        raise UserError(
            f"--ssl_config_file={path}: server_cert and server_key are no pair, or a text is"
            f" damaged ({error})"
        ) from None
    return tls


def _read(path: str, flag: str, kind: type[M]) -> M:
    """Return the message in a file; raises UserError if it cannot be read or parsed."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return text_format.Parse(text, kind())
    except OSError as error:
        raise UserError(f"--{flag}={path}: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        name = f"tensorflow.serving.{kind.DESCRIPTOR.name}"
        raise UserError(f"--{flag}={path}: Error parsing text-format {name}: {error}") from None
