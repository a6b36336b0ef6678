"""What is exported: every signature, the requests to warm up with, the card, and the gate."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import TINY, draw_logits
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from test_upload import FILES

from tfpipe import export, train
from tfpipe.core.errors import UserError
from tfpipe.evaluation.metrics import metrics, names
from tfpipe.evaluation.summary import summary
from tfpipe.images import upload
from tfpipe.model import classifier, signatures
from tfpipe.model.classifier import BackboneConfig
from tfpipe.model.combination import Combination
from tfpipe.model.heat_map import heat_maps
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.model.views import parse
from tfpipe.protocol import messages
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.publish import card, gate, graph, requirement, wrong_shapes
from tfpipe.publish import sample_images as samples
from tfpipe.publish import warm_up_requests as warm_up
from tfpipe.records import example, tfrecord
from tfpipe.runs import loaded_run
from tfpipe.training.train_config import TrainConfig

SIGNATURES = {
    "serving_default",
    "predict_bytes",
    "predict_images",
    "features",
    "explain",
    "classify",
    "regress",
}
GOOD = [FILES["JPEG"], FILES["PNG"], FILES["GIF"]]
CLASSES = ("cat", "dog")


_KEPT = []  # signatures alone do not keep their variables


def signatures_of(folder):
    _KEPT.append(tf.saved_model.load(str(folder)))
    return _KEPT[-1].signatures


@pytest.fixture(scope="module")
def loaded(export_dir):
    return signatures_of(export_dir / "1")


@pytest.fixture(scope="module")
def predictor(run_dir):
    return loaded_run.load(run_dir).restore()


def asked(loaded, name, files):
    (alias,) = loaded[name].structured_input_signature[1]
    return {
        key: value.numpy() for key, value in loaded[name](**{alias: tf.constant(files)}).items()
    }


def records_of(files):
    """Serialized tf.Examples as the records are."""
    rest = {"format": "jpeg", "height": 1, "width": 1, "label": 0, "text": "", "filename": "a"}
    return [example.serialize(file, sha256="", **rest) for file in files]


def test_every_signature_is_there_in_float32_without_xla(loaded, export_dir, run_dir):
    assert set(loaded) == set(signatures.signatures) == SIGNATURES
    saved = SavedModel.FromString((export_dir / "1/saved_model.pb").read_bytes()).meta_graphs[0]
    for name, definition in saved.signature_def.items():
        if not name.startswith("__"):
            method = name if name in ("classify", "regress") else "predict"
            assert definition.method_name == f"tensorflow/serving/{method}"
    functions = saved.graph_def.library.function
    assert not any(function.attr["_XlaMustCompile"].b for function in functions)
    types = {node.attr["T"].type for function in functions for node in function.node_def}
    assert tf.float32.as_datatype_enum in types
    assert tf.bfloat16.as_datatype_enum not in types
    assert (export_dir / "1" / "assets" / "labels.txt").read_text() == "cat\ndog\n"
    with pytest.raises(UserError, match="1 exists already"):
        exported(run_dir, export_dir.parent, version="1")


@pytest.mark.parametrize("name", ["serving_default", "predict_bytes", "explain"])
def test_one_damaged_image_is_marked_and_costs_no_other(loaded, name):
    answer = asked(loaded, name, [GOOD[0], b"", GOOD[1], GOOD[2][:100]])
    alone = asked(loaded, name, GOOD[:2])
    assert answer["error"].tolist() == [b"", upload.EMPTY.encode(), b"", upload.DAMAGED.encode()]
    assert answer["class_index"][1::2].tolist() == [-1, -1]
    assert answer["class_name"][1::2].tolist() == [b"", b""]
    assert not answer["probabilities"][1::2].any()  # 0, because JSON has no NaN
    assert not answer["probability"][1::2].any()
    for key in ("probabilities", "probability", "class_index", "class_name"):
        if answer[key].dtype == object:
            assert answer[key][::2].tolist() == alone[key].tolist()
        else:
            np.testing.assert_allclose(answer[key][::2], alone[key], atol=1e-6)


def test_records_are_classified_as_tensorflow_serving_wants_it(loaded):
    serialized = records_of([*GOOD, b"no image"])
    classified, regressed = (asked(loaded, name, serialized) for name in ("classify", "regress"))
    expected = asked(loaded, "predict_bytes", [*GOOD, b""])["probabilities"]
    assert set(classified) == {"classes", "scores"}
    assert classified["classes"].tolist() == [[b"cat", b"dog"]] * 4
    np.testing.assert_allclose(classified["scores"], expected, atol=1e-6)
    assert set(regressed) == {"outputs"}
    np.testing.assert_allclose(regressed["outputs"], [*expected[:3, 1], -1], atol=1e-6)
    for name in ("classify", "regress"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=signatures.IMAGE):
            asked(loaded, name, [example.Example().SerializeToString()])


def test_features_are_what_the_head_sees(loaded, predictor):
    answer = asked(loaded, "features", [GOOD[0], b"", GOOD[1]])
    images, _ = upload.decode(tf.constant(GOOD[:2]), predictor.image_size)
    expected = predictor.classifier.features(tf.cast(images, tf.float32), training=False)
    assert not answer["features"][1].any()
    np.testing.assert_allclose(answer["features"][::2], expected, rtol=1e-4, atol=1e-5)


def tiny_classifier(pooling="avg", output="auto", classes=2, head=""):
    tf_keras.utils.set_random_seed(4)
    branches = [BackboneConfig("small_cnn", 32, "none")]
    return draw_logits(
        classifier.build(branches, classes, pooling=pooling, head=head, output=output)
    )


@pytest.mark.parametrize(("output", "classes"), [("sigmoid", 2), ("softmax", 3)])
def test_the_heat_map_of_a_pooled_linear_head_is_the_class_activation_map(output, classes):
    """Zhou et al., arXiv:1512.04150, equation 2: the class's weights of each place's features."""
    built = tiny_classifier(output=output, classes=classes)
    images = np.random.default_rng(1).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    (tower,) = built.backbones
    maps = tower.model(tower.prepare(images), training=False).numpy()
    kernel = built.head.get_layer("logits").kernel.numpy()
    chosen = np.array([0, 1, classes - 1])
    weights = np.concatenate([-kernel, kernel], 1) if output == "sigmoid" else kernel
    weights = weights - (0 if output == "sigmoid" else kernel.mean(1, keepdims=True))
    cam = np.einsum("nhwf,fn->nhw", maps, weights[:, chosen])
    cam = tf.image.resize(cam[..., np.newaxis], [32, 32]).numpy()[..., 0].clip(0)
    expected = cam / np.maximum(cam.max((1, 2), keepdims=True), 1e-12)
    predictor = Predictor(built, parse(""))
    ask = tf.function(lambda images, classes: heat_maps(predictor, images, classes))
    for function in (ask, lambda *args: heat_maps(predictor, *args)):
        found = function(tf.constant(images), tf.constant(chosen)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert found.shape == (3, 32, 32)
        assert ((found >= 0) & (found <= 1)).all()


def test_the_heat_map_of_an_ensemble_is_its_members_mean():
    predictor = Predictor(tiny_classifier("avg_max", head="dense(8)"), parse(""))
    both = EnsemblePredictor((predictor, predictor), Combination("mean"), "sigmoid")
    images = tf.random.stateless_uniform([2, 32, 32, 3], [0, 1], 0, 255)
    chosen = tf.constant([1, 0], tf.int64)
    np.testing.assert_allclose(
        heat_maps(both, images, chosen), heat_maps(predictor, images, chosen), atol=1e-5
    )


def test_explain_shows_the_predicted_class(loaded, predictor):
    answer = asked(loaded, "explain", GOOD)
    images, _ = upload.decode(tf.constant(GOOD), predictor.image_size)
    expected = heat_maps(predictor, images, tf.constant(answer["class_index"]))
    np.testing.assert_allclose(answer["heat_map"], expected, atol=1e-4)
    assert answer["heat_map"].max((1, 2)).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.slow
def test_warm_up_asks_every_signature_in_every_size(export_dir, loaded):
    with open(export_dir / "1" / warm_up.FILE, "rb") as file:
        logs = [messages.PredictionLog.FromString(record) for _, record in tfrecord.read(file)]
    seen = set()
    for log in logs:
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        assert request.model_spec.name == "tiny"
        name = request.model_spec.signature_name
        if kind == "predict_log":
            ((alias, proto),) = request.inputs.items()
            value = tf.constant(tf.make_ndarray(proto))
        else:
            assert kind == f"{name}_log"
            alias, examples = "inputs", request.input.example_list.examples
            value = tf.constant([each.SerializeToString() for each in examples])
        answer = loaded[name](**{alias: value})
        for output in answer.values():
            assert len(output) == len(value)
        if "error" in answer:
            assert not any(answer["error"].numpy())
        seen.add((name, len(value)))
    assert seen == {(name, size) for name in SIGNATURES for size in (1, 8, 32)}
    assert len(logs) == len(seen)


def test_the_card_says_what_it_is_and_how_good(export_dir, run_dir):
    folder = export_dir / "1"
    said = json.loads((folder / card.JSON).read_text())
    run = loaded_run.load(run_dir)
    assert (said["name"], said["version"], said["classes"]) == ("tiny", 1, ["cat", "dog"])
    assert said["data"]["fingerprint"] == run.resolved.records_fingerprint
    assert said["decision"] == {
        "label": "the class of the highest probability",
        "threshold": 0.5,
        "positive_class": "dog",
    }
    assert set(said["signatures"]) == SIGNATURES
    low, high = said["measures"]["intervals"]["accuracy"]
    assert low < said["measures"]["accuracy"] <= high
    assert said["input"]["side_in_pixels"] == 32
    assert said["training"]["weights_sha256"] == run.identity()["weights_sha256"]
    text = (folder / card.TEXT).read_text()
    assert all(f"| {metrics[name].title} | " in text for name in names(2))
    assert f"| accuracy | {said['measures']['accuracy']:.4f} | {low:.4f} to {high:.4f} |" in text
    low, high = said["measures"]["recall_intervals"]["dog"]
    assert f"| dog found | {said['measures']['recall']['dog']:.4f} | {low:.4f} to" in text
    assert all(limit in text for limit in card.LIMITS)
    only_cats = summary(np.array([[0.9, 0.1]] * 12), np.zeros(12, int), CLASSES)
    text = card.as_text(said | {"measures": only_cats})
    assert "| dog found | no images | no images |" in text


def exported(run_dir, folder, **changes):
    export.main(export.Options(run_dir=str(run_dir), export_dir=str(folder / "tiny"), **changes))
    return folder / "tiny"


@pytest.mark.slow
@pytest.mark.timeout(120)  # may include the training of the fixture
def test_frozen_weights_answer_the_same(run_dir, loaded, tmp_path):
    folder = exported(run_dir, tmp_path, optimize="none", serving_batch_sizes="1")
    plain = signatures_of(folder / "1")
    files = [*GOOD, b""]
    for name in ("predict_bytes", "explain", "features"):
        found, expected = asked(loaded, name, files), asked(plain, name, files)
        for key, value in expected.items():
            if value.dtype == object:
                assert found[key].tolist() == value.tolist()
            else:
                np.testing.assert_allclose(found[key], value, atol=1e-5, rtol=1e-4)
    # By default what classifies reads no variable.
    assert not loaded["predict_images"].graph.variables
    assert plain["predict_images"].graph.variables
    assert json.loads((folder / "1" / card.JSON).read_text())["optimize"] == "none"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most", "bytes_each"), [("float32", 1e-4, 5), ("int8", 0.2, 2)])
def test_a_file_for_phones(run_dir, tmp_path, kind, most, bytes_each, capsys):
    folder = exported(run_dir, tmp_path, tflite=kind, serving_batch_sizes="1", check_images=16)
    form = r"model.tflite: (\d+) of \d+ images get the same class; .* by up to (\S+)"
    same, difference = re.search(form, capsys.readouterr().err).groups()
    assert float(difference) < most
    assert int(same) >= 6
    weights = sum(np.prod(v.shape) for v in loaded_run.load(run_dir).restore().variables)
    assert (folder / "1" / "model.tflite").stat().st_size < bytes_each * weights + 60_000


@pytest.mark.slow
def test_versions_may_be_numbers_or_the_time(run_dir, tmp_path):
    options = {"check_images": 0, "license": "CC0-1.0"}
    folder = exported(run_dir, tmp_path, version="7", **options)
    assert "License: CC0-1.0" in (folder / "7" / card.TEXT).read_text()
    exported(run_dir, tmp_path, version="timestamp", **options)
    stamp = max(int(name) for name in os.listdir(folder))
    assert 1_700_000_000 < stamp < 5_000_000_000
    exported(run_dir, tmp_path, **options)
    assert {int(name) for name in os.listdir(folder)} == {7, stamp, stamp + 1}
    assert not (folder / "7" / warm_up.FILE).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0"}, "--version=0: give a number from 1 to"),
        ({"version": "v2"}, "--version=v2: give a number"),
        ({"version": str(2**63)}, "--version=9223372036854775808: give a number"),
        ({"require": "log_loss<1e999"}, "--require: 'log_loss<1e999' is no requirement"),
        ({"require": "log_loss=3"}, "--require: 'log_loss=3' is no requirement"),
        (
            {"require": "luck>0.5"},
            "--require: 'luck' is not measured; known: accuracy, average_prec",
        ),
        ({"require": "log_loss<1e-9"}, r"not exported: log_loss is \S+, and log_loss<1e-09 is"),
        (
            {"require": "accuracy>2,log_loss<-1"},
            "not exported: accuracy is .*, and accuracy>2 is required; log_loss is",
        ),
        ({"serving_batch_sizes": "1,x"}, "--serving_batch_sizes=1,x: give numbers from 1"),
        ({"serving_version": "two"}, ".serving_version.: 'two' is no version"),
        ({"serving_version": "2.1"}, ".serving_version.: 2.1 is older than 2.15"),
        ({"serving_batch_sizes": "0"}, "--serving_batch_sizes=0: give numbers from 1"),
        ({"check_images": -1}, "--check_images=-1: give 0 or more"),
        ({"tflite": "int8", "check_images": 0}, "--tflite=int8 is compared with --check_images"),
        ({"records": "nowhere"}, "nowhere/manifest.json does not exist"),
    ],
)
def test_what_fails_leaves_nothing(run_dir, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        exported(run_dir, tmp_path, **changes)
    assert not (tmp_path / "tiny").exists() or not os.listdir(tmp_path / "tiny")


def test_requirements_are_compared_as_they_are_written():
    measured = {"log_loss": 0.5, "accuracy": 0.75, "n": 4, "classes": ["a"]}
    requirement.check(
        requirement.parse(" log_loss <= 0.5, accuracy>=.75,accuracy < 7.6e-1"), measured
    )
    for text in ("log_loss<0.5", "accuracy>0.75"):
        with pytest.raises(UserError, match="is required"):
            requirement.check(requirement.parse(text), measured)
    assert requirement.parse("") == ()


def test_every_measure_may_be_required():
    measured = summary(np.array([[0.8, 0.2], [0.4, 0.6]] * 3), np.array([0, 1, 1] * 2), CLASSES)
    for name in names(2):
        requirement.check(requirement.parse(f"{name}>=0,{name}<=100"), measured)
        with pytest.raises(UserError, match=f"{name} is .*, and {name}<0 is required"):
            requirement.check(requirement.parse(f"{name}<0"), measured)


def test_what_is_undefined_cannot_be_required():
    measured = summary(np.array([[0.9, 0.1]] * 3), np.zeros(3, int), CLASSES)
    with pytest.raises(
        UserError, match=r"roc_auc>0\.5 is required, and roc_auc is undefined: it n"
    ):
        requirement.check(requirement.parse("roc_auc>0.5"), measured)


def unchecked(folder, spec):
    """Saves a model whose graph checks no shape."""
    module = tf.Module()
    function = tf.function(lambda x: {"y": x}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=function)


class TestGate:
    @pytest.fixture(scope="class")
    def taken(self, run_dir, predictor):
        return samples.take(loaded_run.load(run_dir), predictor, "", 5)

    @pytest.mark.slow
    def test_compares_served_answers(self, export_dir, taken):
        assert len(taken.files) == 5
        assert 0 <= gate.check(export_dir / "1", taken) < gate.TOLERANCE
        other = dataclasses.replace(taken, expected=taken.expected + 1e-3)
        refused = dataclasses.replace(taken, files=(b"no image", *taken.files[1:]))
        for wrong, said in ((other, "0.001"), (refused, "by")):
            with pytest.raises(UserError, match=f"served probabilities differ .*({said})"):
                gate.check(export_dir / "1", wrong)

    @pytest.mark.slow
    def test_holds_back_what_no_server_can_load(self, taken, tmp_path):
        (tmp_path / "saved_model.pb").write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"a server cannot load it, and says: error: .*damaged"):
            gate.check(tmp_path, taken)

    @pytest.mark.slow
    def test_holds_back_a_graph_that_takes_wrong_shapes(self, taken, tmp_path):
        unchecked(tmp_path, tf.TensorSpec(None, tf.float32, "x"))
        with pytest.raises(UserError, match=r"not exported: .*with the shape \[\] is not refused"):
            gate.check(tmp_path, taken)

    @pytest.mark.parametrize("shape", [None, [None, 2], [None]])
    def test_finds_a_signature_without_a_check(self, tmp_path, shape):
        unchecked(tmp_path, tf.TensorSpec(shape, tf.float32, "x"))
        assert "serving_default with the shape [" in wrong_shapes.find(str(tmp_path))

    @pytest.mark.parametrize("fault", ["python", "file", "xla"])
    def test_holds_back_what_a_server_must_not_run(self, tmp_path, fault):
        def run(x):
            if fault == "python":
                return tf.numpy_function(np.sin, [x], tf.float32)
            if fault == "file":
                return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)
            return tf.function(tf.sin, jit_compile=True)(x)

        module = tf.Module()
        spec = tf.TensorSpec([None], tf.float32, "x")
        function = tf.function(lambda x: {"y": run(x)}, input_signature=[spec])
        tf.saved_model.save(module, str(tmp_path), signatures=function)
        said = {
            "python": "runs Python",
            "file": "ReadFile in .* reads a file",
            "xla": "jit_compile",
        }
        with pytest.raises(UserError, match=f"not exported: .*{said[fault]}"):
            graph.check(tmp_path)


def test_an_operation_that_an_older_server_lacks_is_told(tmp_path):
    class Fresh(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.int64, "x")])
        def serve(self, x):
            data = tf.data.Dataset.range(8)
            variant = tf.data.experimental.to_variant(data)
            found = tf.raw_ops.DatasetFingerprint(input_dataset=variant)
            return {"y": tf.cast(found, tf.int64) + x}

    module = Fresh()
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    assert graph.faults(tmp_path) == []
    (fault,) = graph.faults(tmp_path, "2.15.1")
    assert fault.startswith("DatasetFingerprint in ")
    assert fault.endswith("needs TensorFlow Serving 2.19")


def test_the_signatures_name_the_fixed_sizes(export_dir):
    definitions = LoadedModel(export_dir / "1", 1).signatures
    for name in SIGNATURES:
        ((alias, info),) = definitions[name].inputs.items()
        sizes = [dim.size for dim in info.tensor_shape.dim]
        assert sizes == ([-1, 32, 32, 3] if alias == "images" else [-1]), name
        for output in definitions[name].outputs.values():
            first, *rest = (dim.size for dim in output.tensor_shape.dim)
            assert first == -1
            assert -1 not in rest


# Feeds each signature in a process of its own, because some kernels end it at a wrong shape.
FEED = """
import sys, numpy as np, tensorflow as tf
v1, (folder, *shapes) = tf.compat.v1, sys.argv[1:]
with v1.Session(graph=tf.Graph()) as session:
    for name, one in v1.saved_model.load(session, ["serve"], folder).signature_def.items():
        for info in one.inputs.values():
            for shape in shapes:
                value = np.zeros([int(n) for n in shape.split(",") if n], np.uint8)
                value = np.full(value.shape, b"", object) if info.dtype == tf.string else value
                if value.ndim == 1 and info.dtype == tf.string:
                    continue
                try:
                    session.run([o.name for o in one.outputs.values()], {info.name: value})
                    print(name, shape, "answers")
                except tf.errors.InvalidArgumentError:
                    print(name, shape, "refused")
"""
WRONG = ("", "32,32,3", "1,32,32", "32,32", "1", "1,0,0,3", "1,64,64,3", "1,32,32,4", "1,32,32,3,1")


@pytest.mark.slow
def test_without_a_server_the_graph_refuses_wrong_shapes(export_dir):
    command = [sys.executable, "-c", FEED, str(export_dir / "1"), *WRONG]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == (len(SIGNATURES) - 1) * (len(WRONG) - 1) + len(WRONG)
    assert {line[-1] for line in lines} == {"refused"}


def test_three_classes_have_no_regression():
    predictor = Predictor(tiny_classifier(output="softmax", classes=3), parse(""))
    context = signatures.Context(predictor, ("a", "b", "c"))
    assert signatures.signatures["regress"](context) is None
    assert "probability" not in context.answer(tf.zeros([1, 32, 32, 3], tf.uint8))


@pytest.mark.slow
def test_a_run_without_records_is_exported_unchecked_only(records, tmp_path):
    moved = shutil.copytree(records, tmp_path / "records")
    config = TrainConfig(records=str(moved), run_dir=str(tmp_path / "run"), **TINY | {"epochs": 1})
    train.main(config)
    shutil.rmtree(moved)
    with pytest.raises(UserError, match=r"manifest.json does not exist"):
        exported(tmp_path / "run", tmp_path)
    folder = exported(tmp_path / "run", tmp_path, check_images=0)
    said = json.loads((folder / "1" / card.JSON).read_text())
    assert said["data"]["fingerprint"] is None
