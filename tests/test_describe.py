"""`tfpipe.train --describe`: the model as a table, its blocks, and what it reads."""

import functools

import commands
import pytest
import tf_keras
from commands import assert_one_error

from tfpipe import train
from tfpipe.core.errors import UserError
from tfpipe.model import backbones, describe
from tfpipe.training.train_config import TrainConfig

SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)


def test_the_classes_are_the_records(tiny_config, capsys):
    train.main(tiny_config(describe=True, stages="head", pooling="avg"))
    out = capsys.readouterr().out
    # A dense layer of 16 on 64 features, and one sigmoid.
    assert ["trainable", f"{64 * 16 + 16 + 16 + 1:,}"] in [x.split() for x in out.splitlines()]
    assert "small_cnn at 32 x 32" in out


def test_it_needs_neither_records_nor_a_run(capsys):
    tiny = ("--backbones=small_cnn", "--weights=none", "--image_size=32")
    done = commands.run(train.main, TrainConfig, "--describe", *tiny)
    assert done.returncode == 0, done.stderr
    assert "two classes" in done.stderr
    assert "trainable" in done.stdout
    for flags in (["--run_dir=x"], ["--records=x"]):
        assert_one_error(commands.run(train.main, TrainConfig, *flags), "is missing")


def test_a_backbone_of_several_feature_maps():
    built = backbones.get("small_cnn@pool2+pool3").build(32)
    row = describe._row("cut", built.layers, built.output_shape)
    assert row == ["cut", len(built.layers), f"{built.count_params():,}", "8 x 8 x 32, 4 x 4 x 64"]


def test_a_damaged_manifest_is_not_taken_for_none(tmp_path, tiny_config):
    (tmp_path / "bad").mkdir()
    with pytest.raises(UserError, match="manifest"):
        train.main(tiny_config(describe=True, records=str(tmp_path / "bad")))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vgg16", 32, [f"block{n}" for n in range(1, 6)]),
        SLOW("resnet50", 32, ["conv1", "pool1", "conv2", "conv3", "conv4", "conv5"]),
        ("mobilenet", 32, ["conv1", "conv_dw_1", "conv_pw_1", "conv_pad_2", "conv_dw_2"]),
        SLOW("inceptionv3", 75, [f"mixed{n}" for n in range(11)]),
        SLOW("xception", 71, [f"block{n}" for n in range(1, 15)]),
    ],
)
def test_blocks_are_those_of_the_papers(name, size, expected):
    model = backbones.get(name).build(size)
    grouped = describe.blocks(model)
    assert list(grouped)[: len(expected)] == expected
    if name != "mobilenet":
        assert len(grouped) == len(expected)
    members = [layer for block in grouped.values() for layer in block]
    assert len({id(layer) for layer in members}) == len(members) == len(model.layers) - 1
    assert sum(layer.count_params() for layer in members) == model.count_params()


@pytest.mark.slow  # builds InceptionV3
def test_a_merge_ends_its_block():
    """Of InceptionV3, whose `mixed9_1` is a part of block 10."""
    grouped = describe.blocks(backbones.get("inceptionv3").build(75))
    for name, members in grouped.items():
        assert members[-1].name == name
        assert isinstance(members[-1], tf_keras.layers.Concatenate)
    assert "mixed9_1" in [layer.name for layer in grouped["mixed10"]]
