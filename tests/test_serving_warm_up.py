"""Requests that a version brings along are answered before it is served."""

import grpc
import numpy as np
import pytest
from serving_demo import IMAGE, embedded, example, predict, publish, spec

from serving import warm_up as module
from serving.warm_up import warm_up
from tfpipe.core.errors import UserError
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.warm_up_file import FILE, MAX_RECORDS
from tfpipe.records import tfrecord


@pytest.fixture
def version(tmp_path):
    publish(tmp_path / "demo", 1)
    (tmp_path / "demo" / "1" / FILE).parent.mkdir()
    return tmp_path / "demo" / "1"


def logs():
    found = [messages.PredictionLog() for _ in range(4)]
    found[0].predict_log.request.CopyFrom(predict(spec(), image_bytes=[IMAGE] * 3))
    for log, kind, name in (
        (found[1], "classify_log", "by_class"),
        (found[2], "regress_log", "by_value"),
    ):
        request = getattr(log, kind).request
        request.model_spec.CopyFrom(spec(signature_name=name))
        request.input.example_list.examples.append(example(IMAGE))
    many = found[3].multi_inference_log.request
    many.tasks.add(
        model_spec=spec(signature_name="by_class"), method_name="tensorflow/serving/classify"
    )
    many.input.example_list.examples.append(example(IMAGE))
    return found


def write(version, records):
    (version / FILE).write_bytes(b"".join(map(tfrecord.frame, records)))


def test_every_kind_is_replayed(version):
    model = LoadedModel(version, 1)
    assert warm_up(model) == 0
    write(version, [log.SerializeToString() for log in logs()])
    assert warm_up(model) == 4
    assert model.run("", {"image_bytes": np.array([IMAGE], object)})


def test_beside_others_the_smallest_of_each_is_replayed(version, monkeypatch):
    model, run = LoadedModel(version, 1), []
    for kind, answer in list(module._HANDLERS.items()):

        def noted(model, request, kind=kind, answer=answer):
            run.append((kind, request.ByteSize()))
            return answer(model, request)

        monkeypatch.setitem(module._HANDLERS, kind, noted)
    larger = logs()
    larger[0].predict_log.request.inputs["image_bytes"].CopyFrom(tensors.to_proto([IMAGE] * 8))
    write(version, [log.SerializeToString() for log in (*larger, *logs(), *larger)])
    assert warm_up(model) == 12
    everything, run[:] = run[:], []
    assert warm_up(model, low_priority=True) == 4
    smallest = {kind: min(size for each, size in everything if each == kind) for kind, _ in run}
    assert dict(run) == smallest


def failing():
    log = messages.PredictionLog()
    log.predict_log.request.CopyFrom(predict(spec(signature_name="x"), image_bytes=[IMAGE]))
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([b"\xff"], "Error parsing message"),
        ([messages.PredictionLog().SerializeToString()], "record 0 is a None"),
        ([failing()], 'Serving signature key "x" not found'),
        (b"no TFRecord file", "corrupted record at 0"),
        (None, f"it has more than {MAX_RECORDS:,} records"),
    ],
)
def test_what_cannot_be_replayed_is_told(version, content, message):
    if content is None:
        write(version, [logs()[0].SerializeToString()] * (MAX_RECORDS + 1))
    elif isinstance(content, bytes):
        (version / FILE).write_bytes(content)
    else:
        write(version, content)
    with pytest.raises(RequestError) as caught:
        warm_up(LoadedModel(version, 1))
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.message.startswith(f"cannot warm up with {version / FILE}: ")
    assert message in caught.value.message
    assert caught.value.message.isprintable()


def test_a_version_that_fails_is_not_served(version):
    write(version, [failing()])
    with pytest.raises(UserError, match="cannot warm up with"), embedded(version.parent):
        pass
