"""The metrics have the names, labels, buckets and meaning of TensorFlow Serving's."""

import base64
import http.client
import json
import re

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_demo import IMAGE, call, demo, example, examples_of, predict, spec, status

from serving.prometheus_metrics import Metrics
from tfpipe.protocol import messages

BY_CLASS = spec(signature_name="by_class")


@pytest.fixture(scope="module")
def server():
    return demo()


def ask(server, method, path, body=None):
    """Returns the text of an answer."""
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    connection.request(method, path, body)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_metrics_count_both_ways(server):
    def count():
        text = ask(server, "GET", "/monitoring/prometheus/metrics")
        rows = dict(re.findall(r"^(:tensorflow:serving:\w+{.*}) (\S+)$", text, re.M))
        return {name: float(value) for name, value in rows.items()}

    before = count()
    with grpc.insecure_channel(server.address) as channel:
        call(channel, predict(spec(), image_bytes=[IMAGE]))
        with pytest.raises(grpc.RpcError):
            call(channel, predict(spec(signature_name="x"), image_bytes=[IMAGE]))
        with pytest.raises(grpc.RpcError):
            call(channel, predict(spec("made up"), image_bytes=[IMAGE]))
        call(channel, examples_of(messages.ClassificationRequest, BY_CLASS, IMAGE))
        many = messages.MultiInferenceRequest()
        many.tasks.add(model_spec=BY_CLASS, method_name="tensorflow/serving/classify")
        many.input.example_list.examples.extend([example(IMAGE)] * 3)
        call(channel, many)
        call(channel, status(spec()))
    ask(server, "GET", "/v1/models/demo")
    image = {"b64": base64.b64encode(IMAGE).decode()}
    ask(server, "POST", "/v1/models/demo:predict", json.dumps({"instances": [image]}))
    after = count()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    counts = ':tensorflow:serving:request_count{model_name="%s",status="%s"}'
    assert grown[counts % ("demo", "OK")] == 4
    assert grown[counts % ("demo", "FAILED_PRECONDITION")] == 1
    assert grown[counts % ("", "NOT_FOUND")] == 1
    # Only of successes, and of REST with the method of the URL.
    latency = ':tensorflow:serving:request_latency_%s{model_name="demo",API="%s",entrypoint="%s"}'
    assert [
        grown[latency % ("count", api, entrypoint)]
        for api, entrypoint in (
            ("Predict", "GRPC"),
            ("Classify", "GRPC"),
            ("predict", "REST"),
            ("", "REST"),
        )
    ] == [1, 1, 1, 1]
    assert 100 < grown[latency % ("sum", "Predict", "GRPC")] < 20e6  # microseconds
    runtime = ':tensorflow:serving:runtime_latency_count{model_name="demo",API="%s",runtime="TF1"}'
    assert (grown[runtime % "Predict"], grown[runtime % "Classify"]) == (2, 1)
    assert grown[':tensorflow:serving:request_example_count_total{model="demo"}'] == 3


def test_metrics_are_in_the_format_of_prometheus(server):
    text = ask(server, "GET", "/monitoring/prometheus/metrics")
    found = {family.name: family.type for family in text_string_to_metric_families(text)}
    kinds = {
        "model_warmup_latency": "histogram",
        "request_count": "counter",
        "request_example_count": "counter",  # the parser cuts `_total`
        "request_example_counts": "histogram",
        "request_latency": "histogram",
        "runtime_latency": "histogram",
    }
    prefix = ":tensorflow:serving:"
    assert found == {f"{prefix}{name}": kind for name, kind in kinds.items()}
    assert f"# TYPE {prefix}request_count counter\n" in text


def test_the_buckets_are_tensorflow_servings():
    metrics = Metrics()
    for count in (1, 2, 3, 20_000):
        metrics.record_examples('a"b\\', count)
    metrics.record("m", "Predict", "GRPC", "OK", 32.4e-6)
    lines = metrics.text().decode().splitlines()
    row = r':tensorflow:serving:request_example_counts_%s{model="a\"b\\"%s} %s'
    for limit, count in (("1", 0), ("2", 1), ("4", 3), ("16384", 3), ("+Inf", 4)):
        assert row % ("bucket", f',le="{limit}"', count) in lines
    assert row % ("sum", "", 20_006) in lines
    limits = [
        match[1]
        for line in lines
        if (match := re.search(r'request_latency_bucket.*le="(.*)"', line))
    ]
    assert limits[:4] == ["10", "18", "32.4", "58.32"]
    assert (len(limits), limits[-1]) == (34, "+Inf")
