"""Configuration files in TensorFlow Serving's protobuf text formats.

    models.config       ModelServerConfig      --model_config_file
    batching.config     BatchingParameters     --batching_parameters_file
    monitoring.config   MonitoringConfig       --monitoring_config_file
    ssl.config          SSLConfig              --ssl_config_file

`tensorflow-serving-api` has only the first message. The others are declared here with the fields of
session_bundle_config.proto, monitoring_config.proto and ssl_config.proto.
"""

import os
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

from serving.batching import BatchingParameters
from tfpipe.core.errors import UserError
from tfpipe.protocol.messages import ModelServerConfig

M = TypeVar("M", bound=Message)

_PACKAGE = "tensorflow.serving"
_NUMBER, _TEXT, _FLAG = (f".google.protobuf.{kind}Value" for kind in ("Int64", "String", "Bool"))
# Fields by message: the name of a message, or a type of the language; "*" marks a repeated field.
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
    pool = (
        descriptor_pool.DescriptorPool()
    )  # not the default pool, which may have the real messages
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


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
        "num_batch_threads": len(os.sched_getaffinity(0)),
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
    for name, least in {"max_execution_batch_size": 1, "max_enqueued_batches": 1,
                        "num_batch_threads": 1, "batch_timeout_micros": 0}.items():  # fmt: skip
        if getattr(batching, name) < least:
            raise UserError(f"--{flag}={path}: {name} must be at least {least}")
    if largest > batching.max_batch_size:
        raise UserError(
            f"--{flag}={path}: max_execution_batch_size, {largest}, must be at most"
            f" max_batch_size, {batching.max_batch_size}"
        )
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != largest):
        raise UserError(
            f"--{flag}={path}: allowed_batch_sizes must rise and end with the largest batch,"
            f" {largest}"
        )
    if found.pad_variable_length_inputs:
        raise UserError(
            f"--{flag}={path}: pad_variable_length_inputs is for TensorFlow Serving only: leave it"
            " out"
        )
    return batching


def read_metrics_path(path: str) -> str:
    """Return the path of the metrics, "" for none; raises UserError."""
    found = _read(path, "monitoring_config_file", _DECLARED["MonitoringConfig"]).prometheus_config
    return (found.path or "/monitoring/prometheus/metrics") if found.enable else ""


class ServerTls:
    """The keys of an encrypted server.

    Attributes:
        key, certificate: the server's, PEM.
        authority: PEM certificates that check the clients'; None for the system's.
        verify_clients: whether a client must have a certificate.
    """

    def __init__(self, path: str):
        """Read an SSLConfig; raises UserError if it cannot be read or lacks a key."""
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
        self.key, self.certificate = found.server_key.encode(), found.server_cert.encode()
        self.authority = found.custom_ca.encode() or None
        self.verify_clients = found.client_verify


def _read(path: str, flag: str, kind: type[M]) -> M:
    """Return the message in a file; raises UserError if it cannot be read or parsed."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return text_format.Parse(text, kind())
    except OSError as error:
        raise UserError(f"--{flag}={path}: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"--{flag}={path} is no {kind.DESCRIPTOR.name}: {error}") from None
