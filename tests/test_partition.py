"""A classifier split where a stage's training begins: any place, and the same logits."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import draw_logits
from tests.refusals import refused
from tfpipe.model import classifier as classifiers
from tfpipe.model.partition import between, partition


def build(*names, size=75, head=""):
    branches = [classifiers.BackboneConfig(name, size, "none") for name in names]
    return draw_logits(classifiers.build(branches, 2, pooling="avg", head=head, output="auto"))


# The first blocks of MobileNet, which are quick.
MOBILENET = "mobilenet@conv_pw_6_relu"


@pytest.fixture(scope="module")
def merged():
    return build(MOBILENET, "small_cnn")


def pictures(size=75, n=3):
    return np.random.default_rng(0).uniform(0, 255, (n, size, size, 3)).astype(np.float32)


STARTS = [
    *("head", "all", "conv_pw_5", "conv3", "conv_pw_3+conv2"),
    "mobilenet-conv_pw_6_relu/conv_dw_6",
]


@pytest.mark.parametrize("start", STARTS)
def test_the_parts_are_the_whole_and_exactly_the_later_one_is_trained(merged, start):
    parts = partition(merged, start)
    images = pictures()
    whole = merged.model(images, training=False)
    step = tf.function(lambda x: parts.trained(parts.frozen(x)))
    np.testing.assert_allclose(step(images), whole, atol=1e-4)
    assert not parts.frozen.trainable_variables
    trained = {v.ref() for v in parts.trained.trainable_variables}
    assert trained == {v.ref() for v in merged.model.trainable_variables}
    in_head = {v.ref() for v in merged.head.trainable_variables}
    assert {v.ref() for v, _ in parts.backbone} == trained - in_head
    for tower in merged.backbones:
        for layer in tower.model.layers:
            if isinstance(layer, tf_keras.layers.BatchNormalization):
                assert not layer.trainable
            elif start == "all":
                assert all(v.ref() in trained for v in layer.trainable_variables)
    assert parts.any_frozen == (start != "all")
    assert parts.parameters == sum(int(np.prod(v.shape)) for v in parts.trained.trainable_variables)


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ("all", "head"),
        ("conv_pw_3+conv2", "conv_pw_5+conv3"),
        ("conv_pw_3+conv2", "conv_pw_5"),
        ("conv3", "conv3"),
    ],
)
def test_what_crosses_a_later_boundary_follows_from_an_earlier_one(merged, early, late):
    images = pictures()
    early, late = partition(merged, early), partition(merged, late)
    step = tf.function(lambda x: between(merged, early, late)(x))
    found = step(early.frozen(images))
    for one, other in zip(found, late.frozen(images), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow  # builds Xception
def test_xceptions_blocks_13_and_14_have_these_parameters():
    """Counted by hand: separable convolutions 9c + cd, the shortcut's 728 x 1024."""
    parts = partition(build("xception"), "block13")
    separable = [(728, 728), (728, 1024), (1024, 1536), (1536, 2048)]
    expected = sum(9 * c + c * d for c, d in separable) + 728 * 1024
    assert parts.parameters == expected + 2049


def test_a_later_stage_may_train_less(merged):
    more, less, again = (
        partition(merged, start).parameters for start in ("conv_pw_3", "conv_pw_5", "conv_pw_3")
    )
    assert less < more == again


@pytest.mark.parametrize("batch_norm", [False, True])
def test_unfreezing_keeps_training_and_evaluation_alike(batch_norm):
    """BatchNorm trained on small batches of other images would make the two differ widely."""
    built, images = build(MOBILENET), pictures(n=8)
    parts = partition(built, "all", batch_norm=batch_norm)
    before = [v.numpy() for v in built.model.non_trainable_variables]
    found = parts.trained(images, training=True) - parts.trained(images, training=False)
    assert (np.abs(found).max() > 1e-3) == batch_norm
    pairs = zip(before, built.model.non_trainable_variables, strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs) != batch_norm


def test_a_heads_norm_is_trained_with_a_backbones_batch_norm_only():
    """Otherwise it keeps the statistics that `adapt` gave it."""
    built = build(MOBILENET, head="norm|dense(4)|norm")
    for start, batch_norm, trained in [
        ("head", False, False),
        ("conv_pw_5", False, False),
        ("all", True, True),
        ("head", True, False),
    ]:
        parts = partition(built, start, batch_norm=batch_norm)
        norms = [each for each in built.head.layers if each.name.endswith("norm")]
        assert [norm.trainable for norm in norms] == [trained] * 2
        before = norms[0].moving_mean.numpy()
        parts.trained(parts.frozen(pictures()), training=True)
        assert np.array_equal(before, norms[0].moving_mean) != trained


@pytest.mark.slow  # builds EfficientNet
def test_frozen_dropout_is_off_and_trained_dropout_is_on():
    built = build("efficientnetb0", size=64)  # which drops whole blocks at random
    images = pictures(64, 4)
    frozen = partition(built, "head")
    boundary = frozen.frozen(images, training=False)
    assert np.array_equal(boundary, frozen.frozen(images, training=False))
    parts = partition(built, "block6b")
    boundary = parts.frozen(images, training=False)
    first, second = (parts.trained(boundary, training=True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("block99", "block99.*mobilenet-conv_pw_6_relu has conv1, .*conv3"),
        ("xception/block13", "xception/block13"),
        ("small_cnn/conv9", "small_cnn/conv9.*small_cnn has conv1"),
        ("", "from="),
    ],
)
def test_unknown_places_list_the_blocks(merged, start, message):
    with refused(message):
        partition(merged, start)
