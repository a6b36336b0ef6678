"""Writes the descriptions of TensorFlow Serving's messages and services, for clients without code.

    python tools/make_protoset.py --out=serving.protoset
    grpcurl -plaintext -protoset serving.protoset -d '{"model_spec": {"name": "demo"}}' \
        127.0.0.1:8500 tensorflow.serving.ModelService/GetModelStatus

TensorFlow Serving has no reflection, so a generic client such as grpcurl or ghz needs them: a
serialized `google.protobuf.FileDescriptorSet`. The embedded server has reflection.
"""

import dataclasses

from tfpipe.core import cli, storage, terminal
from tfpipe.core.options import option


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    out: str = option("file to write")


def main(options: Options) -> None:
    """Writes the file."""
    from serving.reflection import SERVING_FILES, file_set  # here: gRPC is slow to import

    found = file_set(SERVING_FILES)
    storage.write_whole(options.out, found.SerializeToString(deterministic=True))
    services = [f"{file.package}.{each.name}" for file in found.file for each in file.service]
    terminal.say(f"wrote {options.out}: {', '.join(services)}")


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
