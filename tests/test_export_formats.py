"""Exported models for other runtimes: ONNX Runtime and LiteRT."""

import io
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from pictures import save

from tests.refusals import refused
from tfpipe.publish import lite, onnx_model
from tfpipe.publish.sample_images import SampleImages
from tfpipe.runs import loaded_run

pytestmark = pytest.mark.timeout(240)  # may include the training and the export of fixtures

SIDE = 32  # of the fixtures' model
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
FILES = tuple(save(image, "PNG") for image in IMAGES)


@pytest.fixture(scope="module")
def run(run_dir):
    """Its predictor has test-time views and a calibration."""
    return loaded_run.load(run_dir)


@pytest.fixture(scope="module")
def samples(export_dir):
    """Images, and what the SavedModel answers for their pixels."""
    signatures = tf.saved_model.load(str(export_dir / "1")).signatures
    found = signatures["predict_images"](images=tf.constant(IMAGES))
    return SampleImages(FILES, found["probabilities"].numpy())


@pytest.mark.slow
def test_onnx_runtime_answers_as_the_savedmodel(run, samples, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'tfpipe[onnx]'")
    difference = onnx_model.write(tmp_path, run.restore(), samples, run.classes, (0.5, 0.25))
    assert difference < 1e-5
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    ((images,), (probabilities,)) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == (
        *("images", "tensor(uint8)"),
        [SIDE, SIDE, 3],
    )
    for count in (1, 5):  # any number of images
        (found,) = session.run(None, {"images": IMAGES[:count]})
        np.testing.assert_allclose(found, samples.expected[:count], atol=1e-5)
    assert probabilities.name == "probabilities"
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["cat", "dog"]
    assert json.loads(metadata["thresholds"]) == [0.5, 0.25]


def test_another_answer_of_onnx_runtime_is_refused(run, samples, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'tfpipe[onnx]'")
    wrong = SampleImages(samples.files, samples.expected[::-1])
    with refused(r"not exported: probabilities of model.onnx differ .* by 0\.\d+, and 0.0001 is"):
        onnx_model.write(tmp_path, run.restore(), wrong, run.classes)


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(r"`onnx` needs tf2onnx, .* pip install 'tfpipe\[onnx\]'"):
        onnx_model.check_installed()


@pytest.fixture(scope="module")
def tflite(run, samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite")
    same, difference = lite.write(
        folder, run.restore(), samples, "float32", name="tiny", classes=("cat", "Hündin")
    )
    assert (same, difference) == (5, pytest.approx(0, abs=1e-5))
    return (folder / lite.FILE).read_bytes()


def interpreters():
    """The current interpreter, a package of its own, and TensorFlow's."""
    yield pytest.param("ai_edge_litert.interpreter", id="LiteRT")
    yield pytest.param("tensorflow.lite", id="TensorFlow")


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter:UserWarning")
@pytest.mark.parametrize("module", interpreters())
def test_interpreters_run_the_file_with_its_metadata(module, tflite, samples):
    name = module.partition(".")[0]
    found = tf.lite if name == "tensorflow" else pytest.importorskip(module)
    interpreter = found.Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    for pixels, expected in zip(IMAGES, samples.expected, strict=True):
        interpreter.set_tensor(image["index"], pixels[np.newaxis])
        interpreter.invoke()
        np.testing.assert_allclose(interpreter.get_tensor(answer["index"])[0], expected, atol=1e-5)


def test_the_labels_are_in_a_zip_archive_at_the_end(tflite):
    with zipfile.ZipFile(io.BytesIO(tflite)) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode() == "cat\nHündin\n"
        (entry,) = archive.infolist()
    # Readers on phones map the file into memory: nothing is compressed.
    assert entry.compress_type == zipfile.ZIP_STORED


def test_the_metadata_is_that_of_the_schema(tflite):
    """Read by the classes that the FlatBuffers compiler makes of the model's schema."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAs(tflite)
    assert schema.Model.ModelBufferHasIdentifier(tflite, 0)
    entries = [model.Metadata(place) for place in range(model.MetadataLength())]
    names = [entry.Name() for entry in entries]
    assert names.count(b"TFLITE_METADATA") == 1
    assert b"min_runtime_version" in names  # the converter's own are kept
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    metadata = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert metadata[4:8] == b"M001"
    for text in (b"tiny", b"labels.txt", "Hündin".encode()):
        assert text in metadata


def test_the_same_export_has_the_same_bytes(run, samples, tflite, tmp_path):
    lite.write(tmp_path, run.restore(), samples, "float32", name="tiny", classes=("cat", "Hündin"))
    assert (tmp_path / lite.FILE).read_bytes() == tflite
