"""Cross-validation: every image is predicted by the run that has not seen it."""

import csv
import json

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics

from tfpipe import build_records, train
from tfpipe.core.errors import UserError
from tfpipe.records import example, tfrecord
from tfpipe.records import manifest as manifests
from tfpipe.runs import calibration_fit, fold_agreement
from tfpipe.training import run_folder as runs
from tfpipe.training import runtime


@pytest.fixture(scope="module")
def folded(image_folder, tmp_path_factory):
    """Records in three folds, with a split for tests that is not cross-validated."""
    out = tmp_path_factory.mktemp("records") / "folded"
    splits = {"splits": "train:0.6,val:0.2,test:0.2", "folds": 3}
    build_records.main(
        build_records.Options((str(image_folder),), str(out), **splits, workers=1, report=False)
    )
    return out


def folds_of(folder, splits):
    """Reads the fold of each image, by its name, straight from the shards."""
    found = {}
    for shard in manifests.load(folder).shards:
        if shard.split in splits:
            with open(folder / shard.name, "rb") as file:
                for _, record in tfrecord.read(file):
                    fields = example.deserialize(record)
                    found[fields.filename] = fields.fold
    return found


CHANGES = {"stages": "head", "augment": "", "pooling": "avg", "epochs": 1, "tta": ""}
CHANGES |= {"precision": "auto"}


@pytest.fixture(scope="module")
def validated(folded, tmp_path_factory):
    from conftest import TINY

    from tfpipe.training.train_config import TrainConfig

    folder = tmp_path_factory.mktemp("runs") / "folded"
    config = TrainConfig(records=str(folded), run_dir=str(folder), folds=3, **{**TINY, **CHANGES})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "cpu_features", lambda: frozenset({"amx_bf16"}))
        train.main(config)
    return config, folder


def test_every_image_is_predicted_once_by_the_run_without_it(validated, folded):
    _, folder = validated
    expected = folds_of(folded, ("train", "val"))
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == sorted(expected)
    for fold in range(3):
        with open(folder / f"fold-{fold}" / "predictions.csv", newline="") as file:
            names = [row["name"] for row in csv.DictReader(file)]
        assert sorted(names) == sorted(name for name, of in expected.items() if of == fold)
    for row in rows:
        assert row["label"] == str(int(row["name"].startswith("dog")))
        total = float(row["probability_cat"]) + float(row["probability_dog"])
        assert total == pytest.approx(1, abs=1e-6)


def test_features_are_computed_once_for_all_folds(validated, folded):
    _, folder = validated
    assert len(list((folder / "features").iterdir())) == 1, "as in one precision"
    opened = [runs.load(str(folder / f"fold-{n}")) for n in range(3)]
    assert {run.resolved.precision for run in opened} == {"float32"}
    saved = json.loads((folder / "folds.json").read_text())
    assert saved == {"folds": ["fold-0", "fold-1", "fold-2"]}
    folds = folds_of(folded, ("train", "val"))
    cats = [name.startswith("cat") for name, fold in folds.items() if fold != 1]
    assert opened[1].resolved.class_shares[0] == pytest.approx(np.mean(cats))


def test_a_finished_cross_validation_is_only_shown_again(validated, capsys, monkeypatch):
    """Also on a machine that would choose another precision."""
    config, folder = validated
    monkeypatch.setattr(runtime, "cpu_features", frozenset)
    logs = {path: path.stat().st_mtime_ns for path in folder.glob("fold-*/log.csv")}
    train.main(config)
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    assert "standard deviation" in capsys.readouterr().out


def noisy(count, members, classes, deviation, seed=0):
    """Returns logits [K, n, C] of runs that share the truth and add noise, and labels drawn by it.

    All logits are twice the right ones.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 2, (count, classes))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(1)
    return 2 * (truth + rng.normal(0, deviation, (members, *truth.shape))), labels


def fitted(logits, labels):
    """Returns the temperature with the least log loss by scikit-learn, and that loss."""

    def loss(temperature):
        return sklearn.metrics.log_loss(labels, scipy.special.softmax(logits / temperature, axis=1))

    found = scipy.optimize.minimize_scalar(loss, bounds=(1, 8), method="bounded")
    return found.x, found.fun


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("deviation", [0.0, pytest.param(0.7, marks=pytest.mark.slow), 1.5])
def test_the_calibration_is_that_of_the_mean_of_the_runs(classes, deviation):
    """Single runs need a higher temperature; the right one is that of their mean, on new images."""
    logits, labels = noisy(10_000, 5, classes, deviation)
    spread = fold_agreement.spread(list(logits))
    factor = fold_agreement.worth(logits[0], labels, spread, 5)
    found = calibration_fit.fit(
        logits[0] * factor, labels, "softmax", calibration_fit.Method("temperature")
    )
    fresh, theirs = noisy(20_000, 5, classes, deviation, seed=1)
    best, least = fitted(fresh.mean(0), theirs)
    assert 1 / found.scale == pytest.approx(best, rel=0.1)
    single, _ = fitted(fresh[0], theirs)
    if deviation:
        assert single > 1.15 * best
    own = sklearn.metrics.log_loss(
        theirs, scipy.special.softmax(fresh.mean(0) * found.scale, axis=1)
    )
    assert own < least + 2e-3


def test_the_logits_of_one_run_are_worth_less_than_those_of_the_mean(validated):
    _, folder = validated
    saved = json.loads((folder / "calibration.json").read_text())
    assert 0 < saved["logits_worth"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 5}, r"folds=5.: .* has 3: give that"),
        ({"folds": 3, "fold": 1}, r"folds=3. and .fold=1.: give one of them"),
        ({"fold": 7}, r"has no fold 7; it has 0, 1, 2"),
    ],
)
def test_wrong_folds_are_explained(tiny_config, folded, changes, message):
    with pytest.raises(UserError, match=message):
        train.main(tiny_config(records=str(folded), **changes))
    with pytest.raises(UserError, match=r"has no folds: build the records with .folds=4"):
        train.main(tiny_config(folds=4))
