"""Slices of images and the paired comparison of two models."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from tfpipe.core.errors import UserError
from tfpipe.evaluation import bootstrap, compare
from tfpipe.evaluation.metrics import LabeledPredictions, metrics
from tfpipe.evaluation.slices import MOST, attributes, slices

ROUNDS = 200


def answers_of(given, labels):
    """Predictions for two classes that give the right one these probabilities."""
    second = np.where(labels == 1, given, 1 - given)
    return LabeledPredictions(np.stack([1 - second, second], axis=1), labels)


def images_of(n, seed=0, folders=3):
    rng = np.random.default_rng(seed)
    return {
        "name": np.array([f"part/{rng.integers(folders)}/{i}.jpg" for i in range(n)]),
        "height": rng.integers(30, 400, n),
        "width": rng.integers(30, 400, n),
        "brightness": rng.uniform(0, 255, n).astype(np.float32),
    }


def by(found, name):
    return [part for part in found if part["by"] == name]


OF_TWO_CLASSES = [name for name in metrics if not name.startswith("top_")]  # of more than k


class TestSlices:
    def test_each_attribute_has_every_image_once(self):
        n, rng = 120, np.random.default_rng(0)
        answers = answers_of(rng.uniform(0.3, 1, n), rng.integers(0, 2, n))
        found = slices(answers, images_of(n), rounds=ROUNDS)
        assert {part["by"] for part in found} == set(attributes)
        for name in attributes:
            parts = by(found, name)
            assert sum(part["n"] for part in parts) == n
            loss = sum(part["n"] * part["log_loss"] for part in parts) / n
            assert loss == pytest.approx(metrics["log_loss"].value(answers))
            for part in parts:
                assert set(OF_TWO_CLASSES) <= set(part)
                assert part["log_loss_interval"][0] <= part["log_loss"]

    def test_numbers_are_cut_at_their_quartiles(self):
        n = 80
        shuffled = np.random.default_rng(1).permutation(n) + 0.5
        images = images_of(n) | {"brightness": shuffled}
        answers = answers_of(np.full(n, 0.7), np.arange(n) % 2)
        parts = by(slices(answers, images, rounds=ROUNDS), "brightness")
        assert [(part["from"], part["to"], part["n"]) for part in parts] == [
            (0.5, 19.5, 20),
            (20.5, 39.5, 20),
            (40.5, 59.5, 20),
            (60.5, 79.5, 20),
        ]

    def test_size_and_aspect_are_of_the_sides(self):
        images = {"height": np.array([10, 60]), "width": np.array([40, 30])}
        assert attributes["size"].of(images).tolist() == [10, 30]
        assert attributes["aspect"].of(images).tolist() == [4, 0.5]
        sides = np.full(50, 200)
        images = images_of(50) | {"height": sides, "width": sides}
        (part,) = by(slices(answers_of(np.full(50, 0.7), np.arange(50) % 2), images), "size")
        assert (part["from"], part["to"], part["n"]) == (200, 200, 50)  # equal images are one slice

    def test_where_it_is_worse_is_told(self):
        n = 200
        images = images_of(n) | {"brightness": np.arange(n, dtype=float)}
        given = np.where(np.arange(n) < 50, 0.4, 0.9) + np.random.default_rng(2).normal(0, 0.02, n)
        answers = answers_of(given.clip(0.01, 0.99), np.arange(n) % 2)
        found = slices(answers, images, rounds=ROUNDS)
        assert [part["worse"] for part in by(found, "brightness")] == [True, False, False, False]
        assert not any(part["worse"] for part in found if part["by"] != "brightness")

    def test_folders_are_sources_and_the_rarest_are_taken_together(self):
        counts = [20 - i for i in range(MOST + 4)]
        names = [f"f{i:02}/{j}.jpg" for i, count in enumerate(counts) for j in range(count)]
        images = images_of(len(names) + 1) | {"name": np.array([*names, "top.jpg"])}
        labels = np.arange(len(names) + 1) % 2
        parts = by(
            slices(answers_of(np.full(len(labels), 0.8), labels), images, rounds=9), "source"
        )
        assert [part["value"] for part in parts] == [f"f{i:02}" for i in range(MOST)] + ["5 others"]
        assert parts[-1]["n"] == sum(counts[MOST:]) + 1
        assert attributes["source"].of(images)[-1] == "."

    @pytest.mark.parametrize("n", [1, 2, 9])
    def test_few_images_have_no_interval_and_are_never_worse(self, n):
        answers = answers_of(np.linspace(0.1, 0.9, n), np.zeros(n, int))
        for part in slices(answers, images_of(n), rounds=ROUNDS):
            assert (part["log_loss_interval"], part["worse"]) == (None, False)
            assert part["reasons"]["log_loss_interval"] == "needs 10 images"
            assert part["roc_auc"] is None
            assert part["reasons"]["roc_auc"] == "needs images of two classes"


class TestCompare:
    @pytest.fixture(scope="class")
    def pair(self):
        """Two models of which the first is a little better, on images that are hard for both."""
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 2, 800)
        hard = rng.normal(size=800)
        first = scipy.special.expit(1.6 + 1.5 * hard + rng.normal(0, 0.3, 800))
        second = scipy.special.expit(1.4 + 1.5 * hard + rng.normal(0, 0.3, 800))
        return answers_of(first, labels), answers_of(second, labels)

    @pytest.mark.parametrize("name", OF_TWO_CLASSES)
    def test_the_difference_is_that_of_the_measures_either_way_round(self, name, pair):
        found = compare.compare(*pair, rounds=ROUNDS)["measures"][name]
        one, two = (metrics[name].value(answers) for answers in pair)
        assert (found["value"], found["against"]) == (one, two)
        assert found["difference"] == pytest.approx(one - two)
        low, high = found["interval"]
        assert low < found["difference"] < high
        assert 0 < found["p_value"] <= 1
        other = compare.compare(*pair[::-1], rounds=ROUNDS)["measures"][name]
        np.testing.assert_allclose(other["interval"], (-high, -low))
        assert other["p_value"] == pytest.approx(found["p_value"])

    def test_of_a_mean_it_agrees_with_the_paired_t_test(self, pair):
        losses = [-np.log(p.probabilities[np.arange(800), p.labels]) for p in pair]
        for shift in (0.0, 0.05, 0.055):  # ever nearer to no difference
            worse = answers_of(np.exp(-losses[0] - shift), pair[0].labels)
            test = scipy.stats.ttest_rel(losses[0] + shift, losses[1])
            found = compare.compare(worse, pair[1], rounds=4000)["measures"]["log_loss"]
            expected = max(test.pvalue, 2 / 4001)
            assert found["p_value"] == pytest.approx(expected, rel=0.25, abs=1e-3)
            interval = test.confidence_interval()
            np.testing.assert_allclose(
                found["interval"],
                [interval.low, interval.high],
                atol=(interval.high - interval.low) / 20,
            )

    def test_it_is_paired(self, pair):
        """What the two have in common does not blur the difference."""
        found = compare.compare(*pair, rounds=ROUNDS)["measures"]["log_loss"]
        low, high = found["interval"]
        statistics = {"log_loss": metrics["log_loss"].of(pair[0])}
        samples = bootstrap.resampled(statistics, 800, rounds=ROUNDS)["log_loss"]
        own, _ = bootstrap.interval(samples, metrics["log_loss"].value(pair[0]))
        assert high - low < (own[1] - own[0]) / 2

    def test_a_model_and_itself_are_the_same(self, pair):
        found = compare.compare(pair[0], pair[0], rounds=ROUNDS)
        for name, each in found["measures"].items():
            assert (each["difference"], each["p_value"]) == (0, 1)
            assert (each["interval"] is None) == (name != "accuracy")
        text = compare.sentence(found, "a", "b")
        assert text.endswith("cannot be said: the same in every sample of these images")

    def test_without_a_difference_p_values_are_uniform(self):
        rng = np.random.default_rng(4)
        found = []
        for _ in range(150):
            labels = rng.integers(0, 2, 120)
            pair = [answers_of(scipy.special.expit(rng.normal(1, 1, 120)), labels) for _ in "ab"]
            statistic = {"d": compare._difference("log_loss", *pair)}
            found.append(compare._p_value(bootstrap.resampled(statistic, 120, rounds=199)["d"]))
        assert scipy.stats.kstest(found, "uniform").pvalue > 0.01

    @pytest.mark.parametrize("labels", [np.zeros(30, int), np.zeros(1, int), np.array([0, 1] * 4)])
    def test_what_cannot_be_compared_is_null_with_a_reason(self, labels):
        pair = [answers_of(np.full(len(labels), p), labels) for p in (0.6, 0.7)]
        found = compare.compare(*pair, rounds=ROUNDS)
        nulls = {
            f"{name}.{key}"
            for name, each in found["measures"].items()
            for key, value in each.items()
            if value is None
        }
        assert nulls == set(found["reasons"])
        assert nulls
        text = compare.sentence(found, "a", "b", "roc_auc")
        assert text.startswith("whether a or b is better in ROC AUC cannot be said: needs")

    @pytest.mark.parametrize("name", ["log_loss", "accuracy"])
    def test_the_sentence_names_the_better_one_first(self, name, pair):
        better = answers_of(np.full(800, 0.9), pair[0].labels)
        for first, second, answers in (
            ("a", "b", (better, pair[1])),
            ("b", "a", (pair[1], better)),
        ):
            found = compare.compare(*answers, rounds=ROUNDS)
            text = compare.sentence(found, first, second, name)
            gain = abs(found["measures"][name]["difference"])
            low, high = sorted(map(abs, found["measures"][name]["interval"]))
            p_value = found["measures"][name]["p_value"]
            assert text == (
                f"a is better than b in {metrics[name].title} by {gain:.4f}"
                f" (95 %: {low:.4f} to {high:.4f}), p = {p_value:.2g}"
            )

    def test_a_lead_that_may_be_chance_is_no_more_than_that(self):
        labels = np.arange(40) % 2
        noise = np.random.default_rng(6).normal(0, 0.1, 40)
        pair = (answers_of(0.7 + noise, labels), answers_of(0.71 - noise, labels))
        found = compare.compare(*pair, rounds=ROUNDS)
        assert found["measures"]["log_loss"]["p_value"] > 0.05
        ahead = "ab"[int(found["measures"]["log_loss"]["difference"] > 0)]
        text = compare.sentence(found, "a", "b")
        assert f"cannot be told apart in log loss: {ahead} is ahead by 0.0" in text


def named(names, labels=None):
    return {"name": np.array(list(names)), "label": np.array(labels or [0] * len(names))}


def test_the_same_images_are_found_in_any_order():
    one, two = named(["b", "a", "c"], [1, 0, 2]), named(["c", "b", "a"], [2, 1, 0])
    assert compare.order("x", one, "y", two).tolist() == [1, 2, 0]
    twice = named(["a", "b", "a"])  # told apart by their order only
    assert compare.order("x", twice, "y", twice).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (named("abc"), named("ad"), "x and y .* 2 names are only in the first, 1 only in"),
        (named("aba"), named("baa"), "several images with one name"),
        (named("ab", [0, 1]), named("ba", [0, 1]), "different labels, as of a"),
    ],
)
def test_other_images_are_refused(one, two, message):
    with pytest.raises(UserError, match=message):
        compare.order("x", one, "y", two)
