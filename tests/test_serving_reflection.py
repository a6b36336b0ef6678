"""gRPC reflection, as gRPC's own client uses it."""

import base64
import contextlib
import os
import shutil
import subprocess
import threading

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from serving_demo import IMAGE, PROBABILITY, call, demo, embedded, publish, spec, status

from serving import embedded_server
from tfpipe.protocol import messages

SERVICES = {
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture
def channel():
    with grpc.insecure_channel(demo().address) as channel:
        yield channel


def ask(channel, service, method, request):
    """Calls a method with what the server itself says about it."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    found = pool.FindServiceByName(service).methods_by_name[method]
    kinds = [message_factory.GetMessageClass(k) for k in (found.input_type, found.output_type)]
    stub = channel.unary_unary(
        f"/{service}/{method}", kinds[0].SerializeToString, kinds[1].FromString
    )
    answer = stub(json_format.ParseDict(request, kinds[0]()), timeout=30)
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def test_every_service_is_listed_and_described(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == SERVICES
    pool = DescriptorPool(database)
    methods = {name: len(pool.FindServiceByName(name).methods) for name in SERVICES}
    assert methods["tensorflow.serving.PredictionService"] == 5
    assert methods["inference.GRPCInferenceService"] == 6


def test_a_client_without_our_messages_predicts(channel):
    images = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "1"}]}}
    images["string_val"] = [base64.b64encode(IMAGE).decode()]
    request = {"model_spec": {"name": "demo"}, "inputs": {"image_bytes": images}}
    found = ask(channel, "tensorflow.serving.PredictionService", "Predict", request)
    assert found["outputs"]["probability"]["float_val"] == [pytest.approx(PROBABILITY, abs=1e-6)]
    found = ask(channel, "inference.GRPCInferenceService", "ModelReady", {"name": "demo"})
    assert found == {"ready": True}
    found = ask(
        channel,
        "tensorflow.serving.ModelService",
        "GetModelStatus",
        {"model_spec": {"name": "demo"}},
    )
    assert found["model_version_status"][0]["state"] == "AVAILABLE"


def test_open_streams_keep_no_request_waiting_and_no_server_from_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_server, "GRACE_S", 1000)  # longer than a test may take
    listed = reflection_pb2.ServerReflectionRequest(list_services="")
    ended = threading.Event()

    def requests():
        yield listed
        ended.wait()

    with (
        embedded(publish(tmp_path / "demo", 1), enable_batching=False) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        streams = [stub.ServerReflectionInfo(requests()) for _ in range(50)]
        assert next(streams[0]).list_services_response.service
        assert call(channel, status(spec())).model_version_status
        assert call(channel, messages.HealthCheckRequest()).status == 1
        server.stop()
        ended.set()
        for stream in streams:
            with contextlib.suppress(grpc.RpcError):
                list(stream)  # it ends


@pytest.mark.skipif(
    not shutil.which(os.environ.get("GRPCURL", "grpcurl")), reason="grpcurl is not installed"
)
def test_grpcurl_needs_no_protoset():
    def grpcurl(*arguments):
        command = [os.environ.get("GRPCURL", "grpcurl"), "-plaintext", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    address = demo().address
    assert set(grpcurl(address, "list").stdout.split()) == SERVICES
    data = ["-d", '{"model_spec": {"name": "demo"}}', address]
    method = "tensorflow.serving.ModelService/GetModelStatus"
    assert '"AVAILABLE"' in grpcurl(*data, method).stdout
    refused = grpcurl("-d", '{"model_spec": {"name": "cats"}}', address, method)
    assert refused.returncode
    assert "NotFound" in refused.stderr
    about = grpcurl(address, "describe", "inference.ModelInferRequest").stdout
    assert "repeated bytes raw_input_contents = 7" in about
