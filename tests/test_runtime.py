"""Precision and XLA by device, and random layers whose state is saved."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.refusals import refused
from tfpipe.model import precision
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.training import randomness, run_folder, runtime

AMX = frozenset({"avx2", "avx512_bf16", "amx_bf16"})
PLAIN = frozenset({"avx2", "avx512f"})


@pytest.mark.parametrize(
    ("capability", "features", "chosen", "xla", "reason"),
    [
        (None, PLAIN, "float32", False, "no bfloat16 instructions"),
        (None, AMX, "mixed_bfloat16", False, "amx_bf16"),
        (None, frozenset({"avx512_bf16"}), "mixed_bfloat16", False, "avx512_bf16"),
        ((6, 1), frozenset(), "float32", True, "compute capability 6.1"),
        ((7, 0), frozenset(), "mixed_float16", True, "compute capability 7.0"),
        ((7, 5), AMX, "mixed_float16", True, "compute capability 7.5"),
        ((8, 0), frozenset(), "mixed_bfloat16", True, "compute capability 8.0"),
        ((12, 0), frozenset(), "mixed_bfloat16", True, "compute capability 12.0"),
    ],
)
def test_auto_follows_the_device(capability, features, chosen, xla, reason):
    found = runtime.decide("auto", "auto", capability, "it", features)
    assert (found.precision, found.xla) == (chosen, xla)
    assert reason in found.explanation


@pytest.mark.parametrize("capability", [None, (7, 0), (8, 0)])
def test_a_head_is_trained_as_it_is_served(capability):
    found = runtime.decide("auto", "auto", capability, "it", AMX, head_only=True)
    assert found.precision == "float32"
    assert "only a head" in found.explanation
    asked = runtime.decide("mixed_bfloat16", "auto", capability, "it", AMX, head_only=True)
    assert asked.precision == "mixed_bfloat16"
    begun = runtime.decide("auto", "auto", None, "it", PLAIN, "mixed_bfloat16", head_only=True)
    assert begun.precision == "mixed_bfloat16"


def test_given_values_are_used():
    for asked, xla in (("mixed_bfloat16", "on"), ("float32", "off")):
        found = runtime.decide(asked, xla, None, "CPU", PLAIN)
        assert (found.precision, found.xla) == (asked, xla == "on")
        assert found.explanation.count("asked for") == 2
    with refused(r"precision=mixed_float16.* needs a GPU"):
        runtime.decide("mixed_float16", "auto", None, "CPU", PLAIN)
    assert runtime.choose("auto", "auto").precision, "this machine gets a choice"


@pytest.mark.parametrize(
    ("begun", "capability", "chosen"),
    [
        ("float32", None, "float32"),
        ("mixed_bfloat16", None, "mixed_bfloat16"),
        ("mixed_float16", None, "mixed_bfloat16"),  # on a GPU: a CPU has no fast kernels for it
        ("float32", (8, 0), "mixed_bfloat16"),
    ],
)
def test_a_resumed_run_keeps_its_precision_on_any_cpu(begun, capability, chosen):
    features = {"mixed_bfloat16": PLAIN}.get(begun, AMX)
    found = runtime.decide("auto", "auto", capability, "it", features, begun)
    assert found.precision == chosen
    assert ("as the run began" in found.explanation) == (capability is None and begun == chosen)


@pytest.fixture
def tensor_float_32():
    """TensorFlow's default on a new GPU: float32 products are rounded to 10 bits of fraction."""
    tf.config.experimental.enable_tensor_float_32_execution(True)
    yield tf.config.experimental.tensor_float_32_execution_enabled
    tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_float32_is_exact_in_training(tensor_float_32, policy):
    with precision.under(policy):
        pass
    assert not tensor_float_32(), "also for what runs later, as the validation"


def test_float32_is_exact_in_evaluation(tensor_float_32, run_dir):
    run_folder.load(str(run_dir)).restore_classifier()
    assert not tensor_float_32()


def test_float32_is_exact_where_a_saved_model_answers(tensor_float_32, tmp_path):
    """In the server, the check of an export, and predictions by an export."""
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.double)
    LoadedModel(tmp_path / "1", 1)
    assert not tensor_float_32()


def test_an_error_leaves_the_policy_as_it_was():
    with pytest.raises(ZeroDivisionError), precision.under("mixed_bfloat16"):
        raise ZeroDivisionError
    assert tf_keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.parametrize("strategy", [tf.distribute.get_strategy, tf.distribute.MirroredStrategy])
def test_dropout_continues_from_the_saved_state_of_its_generators(tmp_path, strategy):
    randomness.seed_everything(0)
    layers = tf_keras.layers
    with strategy().scope(), randomness.collect_generators() as generators:
        image = tf_keras.Input([64])
        x = layers.GaussianNoise(1.0)(layers.Dense(64)(layers.Dropout(0.5)(image)))
        model = tf_keras.Model(image, layers.Dropout(0.5)(x))
    assert len(generators) == 3
    state = tf.train.Checkpoint(random=generators)
    step = tf.function(lambda: model(tf.ones([2, 64]), training=True))
    randomness.reseed(generators, 7, 1)
    first, path = step().numpy(), state.save(tmp_path / "state")
    second = step().numpy()
    randomness.reseed(generators, 7, 1)
    assert np.array_equal(step(), first)
    state.restore(path).assert_consumed()
    assert np.array_equal(step(), second)
    assert not np.array_equal(first, second)
    randomness.reseed(generators, 7, 2)
    assert not np.array_equal(step(), first)
