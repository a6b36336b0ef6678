"""The flagfiles of configs/: they parse, have known values and layers, and train."""

import pathlib

import pytest
import tf_keras
from absl import flags
from training import log_of

from tfpipe import build_records, train
from tfpipe.augment import Augment
from tfpipe.core import options, spec
from tfpipe.model import backbones, classifier
from tfpipe.training import optimizers
from tfpipe.training.train_config import TrainConfig

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.flags"))

# Total and trained parameters, printed by the seeds' own model.summary(); of R5's second model they
# are VGG16's 14,714,688 and, by hand, of dense layers 8,192 x 512, 512 x 256 and 256 x 1.
PUBLISHED = {
    "r1-inception_v3": (21_804_833, 2_049),
    "r1-resnet50": (23_589_761, 2_049),
    "r1-xception": (20_863_529, 2_049),
    "r1-merged": (66_258_121, 6_145),
    "r1-merged-augmented": (66_258_121, 6_145),
    "r2-bottleneck": (66_258_121, 6_145),
    "r5-small-cnn": (1_355_938, 1_355_938),
    "r5-vgg16-bottleneck": (
        14_714_688 + 8_192 * 512 + 512 + 512 * 256 + 256 + 257,
        8_192 * 512 + 512 + 512 * 256 + 256 + 257,
    ),
}
QUICK = ["r5-small-cnn", "r5-vgg16-bottleneck"]


def read(name, *more):
    values = flags.FlagValues()
    options.define_flags(TrainConfig, values)
    path = CONFIGS / f"{name}.flags"
    values(["train", f"--flagfile={path}", "--records=nowhere", "--run_dir=run", *more])
    return options.from_flags(TrainConfig, values)


def stages_of(config):
    """Returns the name and the keys of each stage."""
    for stage in config.stages.split(";"):
        name, _, keys = stage.partition(":")
        yield name, dict(key.split("=") for key in keys.split(",") if key)


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_known(name):
    config = read(name)
    Augment(config.augment)
    optimizers.build(config.optimizer, config.learning_rate)
    for call in spec.parse(config.head, option="head"):
        classifier.head_layers[call.name]("layer", *call.args)


def check_parameters(name, capsys):
    train.main(read(name, "--weights=none", "--describe"))
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    total, trained = PUBLISHED[name]
    assert ["total", f"{total:,}"] in words
    assert ["trainable", f"{trained:,}"] in words


@pytest.mark.parametrize("name", QUICK)
def test_models_have_their_published_parameters(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_parameters(name, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.large
@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(QUICK)))
def test_large_models_have_their_published_parameters(name, capsys):
    tf_keras.backend.clear_session()
    check_parameters(name, capsys)


# The least sides that these models take, or that keep a feature map of more than one pixel.
SIDES = {"inceptionv3": 75, "xception": 71, "resnet50": 64, "mobilenet": 64}


def shortened(config):
    """Returns flags for the same recipe on a few small images, an epoch for each stage."""
    names = config.backbones.split(",")
    files = [pathlib.Path(name.partition("@")[0]) for name in names if ".keras@" in name]
    if absent := [str(file) for file in files if not file.is_file()]:
        pytest.skip(f"{absent[0]} is not here")
    found = [backbones.get(name) for name in names]
    sides = [  # the files take images of one size
        f"{each.short_name}={each.input_size if each.path else SIDES.get(each.short_name, 48)}"
        for each in found
    ]
    stages = []
    for stage, keys in stages_of(config):
        keys["epochs"] = "1"
        stages.append(f"{stage}:" + ",".join(f"{key}={value}" for key, value in keys.items()))
    return [
        *("--weights=none", "--epochs=1", "--batch_size=8"),
        *(f"--image_size={','.join(sides)}", f"--stages={';'.join(stages)}"),
    ]


@pytest.mark.large
@pytest.mark.parametrize("name", NAMES)
def test_recipes_train(name, records, image_folder, tmp_path):
    tf_keras.backend.clear_session()
    config, run_dir = read(name), tmp_path / "run"
    runs = [run_dir / f"fold-{fold}" for fold in range(config.folds)] or [run_dir]
    if config.folds:
        records = tmp_path / "folded"
        folded = {"folds": config.folds, "report": False}
        build_records.main(build_records.Options((str(image_folder),), str(records), **folded))
    given = (f"--records={records}", f"--run_dir={run_dir}")
    train.main(read(name, *shortened(config), *given))
    for run in runs:
        assert (run / "best.weights.h5").is_file()
        assert len(log_of(run)) == len(list(stages_of(config)))
