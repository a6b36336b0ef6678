"""Clients that have the messages' descriptions, but none of our code nor TensorFlow's."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from serving_demo import DEMO_VERSION, IMAGE, day_probability, demo

from tfpipe.protocol import messages
from tools import make_protoset


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("protoset") / "serving.protoset"
    make_protoset.main(make_protoset.Options(out=str(path)))
    return path


def test_each_file_follows_those_that_it_needs(file):
    found = descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes())
    seen = set()
    for each in found.file:
        assert set(each.dependency) <= seen
        seen.add(each.name)
    services = {f"{f.package}.{s.name}": len(s.method) for f in found.file for s in f.service}
    assert services == {
        "tensorflow.serving.PredictionService": 5,
        "tensorflow.serving.ModelService": 2,
    }


def test_messages_made_of_it_are_understood(file):
    """As a generic client does: by descriptions alone, in a pool of its own."""
    pool = descriptor_pool.DescriptorPool()
    for each in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
        pool.Add(each)
    service = pool.FindServiceByName("tensorflow.serving.PredictionService")
    method = service.methods_by_name["Predict"]
    kinds = [message_factory.GetMessageClass(k) for k in (method.input_type, method.output_type)]
    request = kinds[0]()
    request.model_spec.name = "demo"
    images = request.inputs["image_bytes"]
    images.dtype = messages.types_pb2.DT_STRING
    images.tensor_shape.dim.add(size=1)
    images.string_val.append(IMAGE)
    with grpc.insecure_channel(demo().address) as channel:
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}", kinds[0].SerializeToString, kinds[1].FromString
        )
        answer = call(request, timeout=30)
    assert answer.outputs["probability"].float_val == pytest.approx([day_probability(IMAGE)])
    assert answer.model_spec.version.value == DEMO_VERSION
