"""Requests that a version brings along are answered before it is served."""

import grpc
import numpy as np
import pytest
from serving_demo import IMAGE, embedded, example, examples_of, predict, publish, spec

from serving import warm_up as module
from serving.prometheus_metrics import Metrics
from serving.warm_up import warm_up
from tfpipe.core.errors import UserError
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.warm_up_file import FILE, MAX_RECORDS
from tfpipe.records import tfrecord


@pytest.fixture
def version(tmp_path):
    version = publish(tmp_path / "demo", 1) / "1"
    (version / FILE).parent.mkdir()
    return version


def logs():
    found = [messages.PredictionLog() for _ in range(4)]
    found[0].predict_log.request.CopyFrom(predict(spec(), image_bytes=[IMAGE] * 3))
    by_class, by_value = spec(signature_name="by_class"), spec(signature_name="by_value")
    request = examples_of(messages.ClassificationRequest, by_class, IMAGE)
    found[1].classify_log.request.CopyFrom(request)
    request = examples_of(messages.RegressionRequest, by_value, IMAGE)
    found[2].regress_log.request.CopyFrom(request)
    many = found[3].multi_inference_log.request
    many.tasks.add(model_spec=by_class, method_name="tensorflow/serving/classify")
    many.input.example_list.examples.append(example(IMAGE))
    return found


def write(version, records):
    (version / FILE).write_bytes(b"".join(map(tfrecord.frame, records)))


def test_every_kind_is_replayed(version):
    model, metrics = LoadedModel(version, 1), Metrics()
    assert warm_up(model, metrics) == 0
    assert b"warmup_latency_count" not in metrics.text()
    # A record without a type is skipped.
    write(version, [log.SerializeToString() for log in (messages.PredictionLog(), *logs())])
    assert warm_up(model, metrics) == 4
    assert warm_up(model, metrics, iterations=3) == 12
    labels = f'model_path="{version}",status="OK"'
    assert f"model_warmup_latency_count{{{labels}}} 2\n" in metrics.text().decode()
    assert model.run("", {"image_bytes": np.array([IMAGE], object)})


def test_beside_others_the_smallest_of_each_is_replayed(version, monkeypatch):
    model, ran, run = LoadedModel(version, 1), [], module.inference.run

    def noted(model, request, metrics):
        ran.append((type(request), request.ByteSize()))
        return run(model, request, metrics)

    monkeypatch.setattr(module.inference, "run", noted)
    larger = logs()
    larger[0].predict_log.request.inputs["image_bytes"].CopyFrom(tensors.to_proto([IMAGE] * 8))
    write(version, [log.SerializeToString() for log in (*larger, *logs(), *larger)])
    assert warm_up(model, Metrics()) == 12
    everything, ran[:] = ran[:], []
    assert warm_up(model, Metrics(), low_priority=True) == 4
    assert dict(ran) == {k: min(size for kind, size in everything if kind is k) for k, _ in ran}


def failing():
    log = messages.PredictionLog()
    log.predict_log.request.CopyFrom(predict(spec(signature_name="x"), image_bytes=[IMAGE]))
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([b"\xff"], "Error parsing message"),
        (b"session_run_log", "Unsupported log_type for warmup: 5"),
        (b"predict_streamed_log", "Unsupported log_type for warmup: 7"),
        ([failing()], 'Serving signature key "x" not found'),
        (b"no TFRecord file", "corrupted record at 0"),
        (None, f"it has more than {MAX_RECORDS:,} records"),
    ],
)
def test_what_cannot_be_replayed_is_told(version, content, message):
    if content is None:
        write(version, [logs()[0].SerializeToString()] * (MAX_RECORDS + 1))
    elif content in (b"session_run_log", b"predict_streamed_log"):
        log = messages.PredictionLog()
        getattr(log, content.decode()).SetInParent()
        write(version, [log.SerializeToString()])
    elif isinstance(content, bytes):
        (version / FILE).write_bytes(content)
    else:
        write(version, content)
    with pytest.raises(RequestError) as caught:
        warm_up(LoadedModel(version, 1), Metrics())
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.message.startswith(f"cannot warm up with {version / FILE}: ")
    assert message in caught.value.message
    assert caught.value.message.isprintable()


def test_a_version_that_fails_is_not_served(version):
    write(version, [failing()])
    with pytest.raises(UserError, match="cannot warm up with"), embedded(version.parent):
        pass
