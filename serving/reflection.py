"""gRPC reflection: the server describes its services to clients such as grpcurl."""

from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from serving.open_inference import messages as oip
from tfpipe.protocol.generated import without_tensorflow

with without_tensorflow():
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

# The files of TensorFlow Serving's services, and of all services.
SERVING_FILES = (prediction_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR)
_FILES = (*SERVING_FILES, oip.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
# Streams at the same time. Each keeps a thread until its client ends it.
_STREAMS = 16


def file_set(files: Iterable[FileDescriptor]) -> descriptor_pb2.FileDescriptorSet:
    """Return the files and all that they need, each after those that it needs itself."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        if file.name not in found:
            found[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(found[file.name])

    for file in files:
        add(file)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


class Reflection(reflection.ReflectionServicer):
    """Describes all services of the server, on threads of its own."""

    def __init__(self, server: grpc.Server):
        """Register the service; `server` is not started yet."""
        # The messages of the Open Inference Protocol are not in protobuf's default pool.
        pool = descriptor_pool.DescriptorPool()
        for file in file_set(_FILES).file:
            pool.AddSerializedFile(file.SerializeToString())
        names = [service.full_name for file in _FILES for service in file.services_by_name.values()]
        super().__init__(names, pool)
        self._streams: set[grpc.ServicerContext] = set()
        self._closed = False
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)

    def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """Answer the requests of one client."""
        self._streams.add(context)
        context.add_callback(lambda: self._streams.discard(context))
        if self._closed:
            return
        yield from super().ServerReflectionInfo(request_iterator, context)

    ServerReflectionInfo.experimental_thread_pool = futures.ThreadPoolExecutor(_STREAMS)

    def close(self) -> None:
        """End the streams, which would keep the server from ending."""
        self._closed = True
        for context in tuple(self._streams):
            context.cancel()
