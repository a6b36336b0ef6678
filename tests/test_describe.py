"""`tfpipe.train --describe`, and the flagfiles of the seed recipes, whose sizes were published."""

import pathlib

import pytest
import tensorflow as tf
from absl import flags

from tfpipe import options, train
from tfpipe.config import TrainConfig
from tfpipe.errors import UserError
from tfpipe.fit import optimizers
from tfpipe.input.augment import Augment
from tfpipe.model import backbones, describe

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"

# Printed by the seeds' own model.summary(): total and trained parameters.
PUBLISHED = {
    "r1-inception_v3": (21_804_833, 2_049),
    "r1-resnet50": (23_589_761, 2_049),
    "r1-xception": (20_863_529, 2_049),
    "r1-merged": (66_258_121, 6_145),
    "r1-merged-augmented": (66_258_121, 6_145),
    "r5-small-cnn": (1_355_938, 1_355_938),
}
QUICK = ["r1-resnet50", "r5-small-cnn"]


def read_flagfile(name, *more):
    values = flags.FlagValues()
    options.define_flags(TrainConfig, values)
    path = CONFIGS / f"{name}.flags"
    values(["train", f"--flagfile={path}", "--records=nowhere", "--run_dir=run", *more])
    return options.from_flags(TrainConfig, values)


def check_published(name, capsys):
    train.main(read_flagfile(name, "--weights=none", "--describe"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    total, trained = PUBLISHED[name]
    assert ["total", f"{total:,}"] in lines
    assert ["trainable", f"{trained:,}"] in lines


@pytest.mark.parametrize("name", QUICK)
def test_seed_recipes_have_their_published_parameters(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_published(name, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.large
@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(QUICK)))
def test_large_seed_recipes_have_their_published_parameters(name, capsys):
    check_published(name, capsys)


@pytest.mark.parametrize("name", PUBLISHED)
def test_flagfiles_of_seed_recipes_parse(name):
    config = read_flagfile(name)
    Augment(config.augment)
    optimizers.build(config.optimizer, config.learning_rate)
    for backbone in config.backbones.split(","):
        backbones.get(backbone)
    head = (CONFIGS / f"{name}.flags").read_text(encoding="utf-8").splitlines()[:3]
    assert "eed recipe R" in head[0]
    assert head[1].startswith(f"# python -m tfpipe.train --flagfile=configs/{name}.flags ")
    assert head[2].startswith("# Published")


def test_every_seed_recipe_is_checked():
    assert {path.stem for path in CONFIGS.glob("r[0-9]-*.flags")} == set(PUBLISHED)


def test_the_classes_are_the_records(tiny_config, capsys):
    train.main(tiny_config(describe=True, stages="head", pooling="avg"))
    out = capsys.readouterr().out
    # A dense layer of 16 on 64 features, and one sigmoid.
    assert ["trainable", f"{64 * 16 + 16 + 16 + 1:,}"] in [x.split() for x in out.splitlines()]
    assert "small_cnn at 32 x 32" in out


def test_a_damaged_manifest_is_not_taken_for_none(tmp_path, tiny_config):
    (tmp_path / "bad").mkdir()
    with pytest.raises(UserError, match="manifest"):
        train.main(tiny_config(describe=True, records=str(tmp_path / "bad")))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vgg16", 32, [f"block{n}" for n in range(1, 6)]),
        ("resnet50", 32, ["conv1", "pool1", "conv2", "conv3", "conv4", "conv5"]),
        ("mobilenet", 32, ["conv1", "conv_dw_1", "conv_pw_1", "conv_pad_2", "conv_dw_2"]),
        ("inceptionv3", 75, [f"mixed{n}" for n in range(11)]),
        ("xception", 71, [f"block{n}" for n in range(1, 15)]),
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


def test_a_merge_ends_its_block():
    """Of InceptionV3, whose `mixed9_1` is a part of block 10."""
    grouped = describe.blocks(backbones.get("inceptionv3").build(75))
    for name, members in grouped.items():
        assert members[-1].name == name
        assert isinstance(members[-1], tf.keras.layers.Concatenate)
    assert "mixed9_1" in [layer.name for layer in grouped["mixed10"]]
