"""The benchmark of training: its figures are there and fit together; none is judged here."""

import json
import sys

import pytest
from absl import flags as absl_flags

from tests.conftest import draw
from tfpipe.core import options as flag_options
from tfpipe.core.errors import UserError
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.training import stages
from tfpipe.training.config import TrainConfig
from tools import bench_train as bench
from tools import bench_train_seeds as seeds

SIZE = 32  # the least that MobileNet takes


def options(source, **changes):
    values = {"weights": "none", "image_size": SIZE, "epochs": 2, "stage_epochs": 1}
    return bench.Options(source=(str(source),), **values | changes)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Images as the seeds' way has them: 12 to train on, 4 to validate on."""
    folder = tmp_path_factory.mktemp("tree")
    for split, count in (("train", 6), ("val", 2)):
        for kind in ("cat", "dog"):
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                draw(kind, number).save(folder / split / kind / f"{number}.jpeg")
    return folder


def seed_arguments(name, tree):
    chosen = bench.flags(name, bench.SEED, options("images"))
    return [*chosen, f"--folder={tree}", "--seed=0"]


def check(report, names, images):
    assert sum(report["images"].values()) == images
    assert list(report["recipes"]) == names
    assert report["machine"]["cores"] >= 1
    assert all(report["versions"].values())
    (measured,) = report["rounds"]
    for name, found in report["recipes"].items():
        for side in bench.SIDES:
            run = measured["recipes"][name][side]
            count = {"r1-frozen": 2, "r2": 8, "r3-staged": 3}[name]
            assert len(run["epochs"]) == len(run["val_losses"]) == count
            assert 0 < run["epochs"][0] <= found[side]["total_s"] == run["seconds"]
            assert run["epochs"] == sorted(run["epochs"])
            assert found[side]["best_val_loss"] == min(run["val_losses"])
            assert found[side]["to_loss_s"] in run["epochs"]
            assert f"--image_size={SIZE}" in run["command"]
        ratios = found["ratios"]
        total = found["seed"]["total_s"] / found["tfpipe"]["total_s"]
        assert ratios["total"] == pytest.approx(total)
        assert 0 < ratios["total_with_build"] < ratios["total"]


def test_one_run_trains_both_ways(image_folder, tmp_path, capsys):
    path = tmp_path / "figures.json"
    chosen = {"recipes": "r1-frozen", "images": 70, "sizes": "100", "work": str(tmp_path)}
    bench.main(options(image_folder, json=str(path), **chosen))
    report, printed = json.loads(path.read_text()), capsys.readouterr()
    check(report, ["r1-frozen"], 70)
    assert "100 is left out: --source has 80 images" in printed.err
    text = " ".join(printed.out.split())
    assert "56 images, validated on 14" in text
    assert "r1-frozen, to the same loss" in text
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.large
@pytest.mark.timeout(900)
def test_one_run_trains_every_recipe_and_size(tmp_path, capsys):
    images, path = tmp_path / "images", tmp_path / "figures.json"
    images.mkdir()
    for number in range(85):
        for kind in ("cat", "dog"):
            draw(kind, number).save(images / f"{kind}.{number}.jpg")
    bench.main(options(images, json=str(path), sizes="170,100"))
    report = json.loads(path.read_text())
    check(report, list(bench.RECIPES), 170)
    assert list(report["sizes"]) == ["100", "170"]
    assert report["sizes"]["170"]["build_s"] == report["build"]["seconds"]
    for each in report["sizes"].values():
        assert min(each.values()) > 0
    assert "s to train, for 1,000" in " ".join(capsys.readouterr().out.split())


def test_both_sides_get_the_same_images_and_labels(image_folder, tmp_path):
    made = bench.Bench(options(image_folder, images=30), tmp_path)
    assert made.counts == {"train": 24, "val": 6}
    originals = {path.read_bytes(): path.name for path in image_folder.iterdir()}
    for split, count in made.counts.items():
        paths = list((tmp_path / "tree" / split).glob("*/*"))
        names = {originals[path.read_bytes()] for path in paths}
        assert len(names) == len(paths) == count
        assert all(originals[p.read_bytes()].startswith(f"{p.parent.name}.") for p in paths)

        part = Subset(manifests.load(tmp_path / "records-30"), (split,))
        assert {originals[record.encoded] for record in part.records()} == names
    with pytest.raises(UserError, match="r1-frozen takes batches of 50, and 24 images"):
        made.check(["r1-frozen"])
    with pytest.raises(UserError, match="--images=81: --source has 80 good images"):
        bench.Bench(options(image_folder, images=81), tmp_path / "other")


@pytest.mark.parametrize("name", bench.RECIPES)
def test_the_flags_of_tfpipe_are_those_of_the_recipe(name):
    chosen = bench.flags(name, bench.OURS, options("images", epochs=10, stage_epochs=2))
    values = absl_flags.FlagValues()
    flag_options.define_flags(TrainConfig, values)
    values(["train", *chosen, "--records=records", "--run_dir=run"])
    config = flag_options.from_flags(TrainConfig, values)
    planned = stages.parse(config)
    recipe = bench.RECIPES[name]
    assert tuple(stage.start for stage in planned) == recipe.stages
    assert config.epochs == config.patience == {"r1-frozen": 10, "r2": 8, "r3-staged": 2}[name]
    assert (config.optimizer, config.batch_size) == (recipe.optimizer.lower(), recipe.batch_size)
    assert config.learning_rate == recipe.learning_rate
    assert bool(config.augment) == recipe.augment
    assert config.feature_views == (2 if recipe.augment else 0)  # no more than epochs


def test_the_seed_computes_features_once(tree, capsys, monkeypatch):
    read = []
    images = seeds.Training._images
    monkeypatch.setattr(
        seeds.Training, "_images", lambda *a, **k: read.append(a[1]) or images(*a, **k)
    )
    seeds.main(seed_arguments("r2", tree))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert len(lines) == 8
    assert all(bench._EPOCH[bench.SEED].match(json.dumps(line)) for line in lines)
    assert all(0 < line["val_loss"] < 10 for line in lines)
    assert read == ["train", "val"]


def test_the_seed_trains_more_in_each_stage(tree, capsys, monkeypatch):
    trained = []

    def fit(training, model, train, **given):
        trained.append([weight.name for weight in model.trainable_weights])
        model.save_weights(training._best)
        images, labels = next(train)
        assert images.shape == (12, SIZE, SIZE, 3)
        assert -1 <= images.min() < 0 < images.max() <= 1  # as MobileNet was trained
        assert set(labels) == {0, 1}
        assert train.image_data_generator.shear_range == 0.2
        assert not given["validation_data"].image_data_generator.shear_range

    monkeypatch.setattr(seeds.Training, "_fit", fit)
    seeds.main(seed_arguments("r3-staged", tree))
    head, blocks12, blocks10 = trained
    assert len(head) == 2  # a kernel and a bias
    assert blocks12[0].startswith("conv_pw_12/")
    assert blocks10[0].startswith("conv_pw_10/")
    # A convolution has one tensor, its BatchNorm a scale and a shift: three layers, then seven.
    assert [len(each) for each in trained] == [2, 2 + 3 * 3, 2 + 7 * 3]


def run(seconds, epochs, losses):
    return {"seconds": seconds, "epochs": epochs, "val_losses": losses}


def test_the_time_to_the_same_loss_is_to_the_worse_of_the_best():
    seed = run(100.0, [20.0, 50.0, 90.0], [0.5, 0.2, 0.3])
    ours = run(10.0, [4.0, 5.0, 6.0], [0.25, 0.19, 0.1])
    found = bench.compare({"seed": seed, "tfpipe": ours})
    assert found["seed"] == {"best_val_loss": 0.2, "to_loss_s": 50.0, "total_s": 100.0}
    assert found["tfpipe"] == {"best_val_loss": 0.1, "to_loss_s": 5.0, "total_s": 10.0}
    worse = bench.compare({"seed": seed, "tfpipe": run(10.0, [4.0, 5.0], [0.5, 0.4])})
    assert worse["seed"]["to_loss_s"] == 50.0
    assert worse["tfpipe"]["to_loss_s"] == 5.0


def rounds():
    def one(seed, ours):
        runs = {"seed": run(seed, [seed / 2], [0.2]), "tfpipe": run(ours, [ours], [0.3])}
        sized = {"seconds": ours, "build": {"seconds": 6.0}}
        return {"recipes": {"r3-staged": runs, "r2": runs}, "sizes": {"500": sized}}

    return [one(60.0, 20.0), one(80.0, 10.0), one(90.0, 18.0)]


def test_the_summary_has_medians_of_the_rounds():
    found = bench.summary(rounds(), 6.0)["r3-staged"]
    assert found["seed"] == {"best_val_loss": 0.2, "to_loss_s": 40.0, "total_s": 80.0}
    assert found["tfpipe"] == {"best_val_loss": 0.3, "to_loss_s": 18.0, "total_s": 18.0}
    assert found["target"] == 2.0
    # The medians of 60 / 20, 80 / 10, 90 / 18, and of 60 / 26, 80 / 16, 90 / 24.
    expected = {"total": 5.0, "total_with_build": 3.75, "to_loss": 2.5, "to_loss_with_build": 1.875}
    assert found["ratios"] == pytest.approx(expected)
    assert bench.growth(rounds()) == {"500": {"build_s": 6.0, "total_s": 18.0}}


def test_targets_are_shown_beside_what_was_reached(capsys):
    report = {
        "images": {"train": 400, "val": 100},
        "build": {"seconds": 6.0},
        "recipes": bench.summary(rounds(), 6.0),
        "sizes": bench.growth(rounds()),
    }
    bench._show(report, options("images", rounds=3))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "Training: 400 images, validated on 100, medians of 3" in lines
    assert "r3-staged, tfpipe 0.3000 18.0 18.0 no" in lines
    assert "r3-staged, to the same loss 2.50 1.88 >= 2 yes" in lines
    assert "r2, in all 5.00 3.75" in lines
    assert "500 6.0 18.0 36.0" in lines


def test_a_process_is_watched():
    code = (
        "import sys, time; print('begins'); print('head epoch 1/2  loss 0.5', file=sys.stderr);"
        " print('head epoch 2/2: 50 of 100 images'); sys.stderr.flush(); time.sleep(0.2);"
        " print('epoch 2/2  loss 0.4', flush=True); time.sleep(0.2)"
    )
    told = []
    found, lines = bench.watch([sys.executable, "-c", code], bench._EPOCH[bench.OURS], told.append)
    assert told == [1, 2]
    assert [line.split()[-1] for line in lines] == ["0.5", "0.4"]
    first, second = found["epochs"]
    assert second - first >= 0.19
    assert found["seconds"] - second >= 0.19
    with pytest.raises(UserError, match=r"-c .* failed: no weights"):
        bench.watch([sys.executable, "-c", "import sys; sys.exit('no weights')"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipes": "r1-frozen,r9"}, "--recipes: 'r9' is none of r1-frozen"),
        ({"recipes": "", "sizes": ""}, "--recipes and --sizes are empty"),
        ({"sizes": "1000,many"}, "--sizes='1000,many'"),
        ({"sizes": "0"}, "--sizes='0'"),
        ({"sizes": "1000,99"}, "--sizes: 99 is too small; 100 is the least"),
        ({"weights": "nowhere.h5"}, "--weights=nowhere.h5 is no file"),
        ({"image_size": 31}, "--image_size=31: it must be at least 32"),
        ({"rounds": 0}, "--rounds=0"),
        ({"images": -1}, "--images=-1"),
        ({"epochs": 0}, "--epochs=0"),
        ({"stage_epochs": 0}, "--stage_epochs=0"),
        ({"feature_views": -1}, "--feature_views=-1"),
        ({"seed_workers": 0}, "--seed_workers=0"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, changes, named):
    with pytest.raises(UserError) as caught:
        bench.main(options(tmp_path, **changes))
    assert str(caught.value).startswith(named)


def test_images_of_three_classes_are_refused(tmp_path):
    for kind in ("cat", "dog", "cow"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for number in range(3):
            draw(kind, number).save(tmp_path / "images" / kind / f"{number}.jpg")
    (tmp_path / "work").mkdir()
    with pytest.raises(UserError, match="--source has 3 classes"):
        bench.Bench(options(tmp_path / "images"), tmp_path / "work")
