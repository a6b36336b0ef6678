"""Writes the descriptions of TensorFlow Serving's messages and services, for clients without code.

    python tools/make_protoset.py --out=serving.protoset
    grpcurl -plaintext -protoset serving.protoset -d '{"model_spec": {"name": "demo"}}' \
        127.0.0.1:8500 tensorflow.serving.ModelService/GetModelStatus

No server of the protocol registers reflection, so a generic client such as grpcurl or ghz needs
them: a serialized `google.protobuf.FileDescriptorSet`.
"""

import dataclasses

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from tfpipe.core import cli, storage, terminal
from tfpipe.core.options import option


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    out: str = option("file to write")


def main(options: Options) -> None:
    """Writes the file."""
    found = protoset()
    storage.write_whole(options.out, found.SerializeToString(deterministic=True))
    services = [f"{file.package}.{each.name}" for file in found.file for each in file.service]
    terminal.say(f"wrote {options.out}: {', '.join(services)}")


def protoset() -> descriptor_pb2.FileDescriptorSet:
    """Returns the files of all messages, each after those that it needs, and of the services."""
    from serving.services import SERVICES
    from tfpipe.protocol import messages  # here, because TensorFlow comes with it

    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        if file.name not in found:
            found[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(found[file.name])

    for methods in SERVICES.values():
        for kind in methods.values():
            add(kind.DESCRIPTOR.file)
    add(messages.SignatureDefMap.DESCRIPTOR.file)  # which travels packed in an Any
    sources = list(found)
    # The files of the services themselves cannot be imported with the protobuf that is pinned.
    for full_name, methods in SERVICES.items():
        package, _, name = full_name.rpartition(".")
        file = descriptor_pb2.FileDescriptorProto(
            name=f"{full_name.replace('.', '/')}.proto", package=package, dependency=sources
        )
        service = file.service.add(name=name)
        for method_name, kind in methods.items():
            request = f".{kind.DESCRIPTOR.full_name}"
            service.method.add(
                name=method_name,
                input_type=request,
                output_type=f"{request.removesuffix('Request')}Response",
            )
        found[file.name] = file
    return descriptor_pb2.FileDescriptorSet(file=found.values())


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
