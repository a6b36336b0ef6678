"""`--sampling`: how often each class and each image is really read, from every source."""

import collections
import dataclasses

import numpy as np
import pytest
from conftest import draw

from tests.refusals import refused
from tests.training import CACHED
from tfpipe import build_records, train
from tfpipe.augment import Augment
from tfpipe.input import pipeline, sampling
from tfpipe.input.input_config import InputConfig
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.training import inputs

CATS, DOGS = 45, 5


@pytest.fixture(scope="module")
def skewed(make_once, tmp_path_factory):
    """Records of 45 cats and 5 dogs in two folds, all to train on, and of 8 to validate."""

    def make(folder):
        images = tmp_path_factory.mktemp("skewed")
        for split, counts in {"train": (CATS, DOGS), "val": (4, 4)}.items():
            for kind, count in zip(("cat", "dog"), counts, strict=True):
                place = images / split / kind
                place.mkdir(parents=True)
                for number in range(count):
                    index = number + 100 * (split == "val")
                    draw(kind, index, side=32).save(place / f"{index}.jpg", quality=90)
        build_records.main(
            build_records.Options(
                source=(str(images),), out=str(folder), shards=3, workers=1, report=False
            )
        )

    return make_once("skewed", make)


@pytest.fixture(scope="module")
def part(skewed):
    return Subset(manifests.load(str(skewed)), ("train",))


def epochs_of(part, config, first=0, last=3, first_step=0):
    """What `train_batches` yields: for each epoch the labels, ids and random numbers."""
    steps = pipeline.steps_per_epoch(part, config.batch_size)
    batches = list(
        pipeline.train_batches(
            part,
            config,
            augment=Augment("flip_lr"),
            first_epoch=first,
            first_step=first_step,
            epochs=last,
        )
    )
    names = ("label", "example_id", "random")
    found = [[batch[name].numpy() for name in names] for batch in batches]
    return found if first_step else [found[i : i + steps] for i in range(0, len(found), steps)]


def column(epoch, index):
    return np.concatenate([batch[index] for batch in epoch])


@pytest.mark.parametrize(
    ("text", "dogs"),
    # 5, 50 x 5^q / (5^q + 45^q), and 25
    [("natural", 5), ("sqrt", 12.5), ("0.25", 18.3), ("balanced", 25)],
)
@pytest.mark.parametrize("cache", ["none", "encoded"])
def test_an_epoch_reads_each_class_by_its_share(part, text, dogs, cache):
    config = InputConfig(
        image_size=16, batch_size=10, cache=cache, sampling=sampling.parse(text), threads=1
    )
    seen = collections.Counter()
    for epoch in epochs_of(part, config):
        labels, ids = column(epoch, 0), column(epoch, 1)
        assert len(labels) == CATS + DOGS
        assert abs((labels == 1).sum() - dogs) <= 1
        seen.update(ids[labels == 0].tolist())
    assert len(seen) == CATS or max(seen.values()) == 1
    assert max(seen.values()) - min(seen.values()) <= 1
    if text == "balanced":
        # 3 epochs of 25 cats: each of the 45 once, and then 30 of them again.
        assert collections.Counter(seen.values()) == {1: 15, 2: 30}


def test_repetitions_are_augmented_differently(part):
    config = InputConfig(image_size=16, batch_size=10, sampling=0.0, threads=1)
    (epoch,) = epochs_of(part, config, last=1)
    labels, ids, numbers = (column(epoch, index) for index in range(3))
    dogs = ids[labels == 1]
    assert len(set(dogs.tolist())) == DOGS
    drawn = {tuple(row) for row in numbers[labels == 1].tolist()}
    assert len(drawn) == len(dogs) == 25


@pytest.mark.parametrize("cache", ["none", "encoded"])
def test_an_epoch_is_the_same_from_any_step(part, cache):
    config = InputConfig(image_size=16, batch_size=8, cache=cache, sampling=0.0, threads=1, seed=3)
    _, whole = epochs_of(part, config, last=2)
    rest = epochs_of(part, config, first=1, last=2, first_step=3)
    for one, other in zip(whole[3:], rest, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    other_seed, _ = epochs_of(part, dataclasses.replace(config, seed=4), last=2)
    assert column(other_seed, 1).tolist() != column(whole, 1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["", "flip_lr"], ids=["features", "images"])
def test_training_reads_what_it_is_told(skewed, tmp_path, tiny_config, monkeypatch, augment):
    """With cached features, and with images; resumed in the third epoch."""
    labels, real = [], inputs.Inputs.training

    def counted(self, *arguments):
        for batch in real(self, *arguments):
            labels.extend(batch["label"].numpy().tolist())
            yield batch

    monkeypatch.setattr(inputs.Inputs, "training", counted)
    changes = {**CACHED, "augment": augment, "batch_size": 10, "calibration": "none"}
    config = tiny_config(**changes, records=str(skewed), sampling="balanced", epochs=2)
    train.main(config)
    train.main(dataclasses.replace(config, epochs=3))
    counts = np.bincount(labels)
    read = len(labels)  # batches that were prepared ahead may not be trained on
    assert read >= 3 * (CATS + DOGS)
    assert abs(counts[1] / read - 0.5) < 0.1


def test_folds_and_classes_without_images():
    sampler = sampling.Sampler(np.array([-1, 0, 0, 2, -1, 0, 2]), 0.0, seed=0)
    for epoch in range(4):
        counts = sampler.counts(epoch)
        assert counts.sum() == 5
        assert counts[[0, 4]].sum() == 0
        assert {counts[[1, 2, 5]].sum(), counts[[3, 6]].sum()} == {2, 3}


@pytest.mark.parametrize("text", ["even", "-0.1", "1.5", "nan", ""])
def test_a_wrong_sampling_is_refused(tiny_config, text):
    with refused("sampling=.*natural.*balanced"):
        train.main(tiny_config(sampling=text))
