"""The threshold that two classes are parted at, against a brute force and scikit-learn."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import metrics

from tfpipe.core.errors import UserError
from tfpipe.evaluation import threshold
from tfpipe.evaluation.threshold import COST, F1, GIVEN, Rule, choose, parse


def cuts(probabilities):
    """Every way to part the images: at each probability, and above all."""
    return [*np.unique(probabilities), 2.0]


def wrong(labels, predicted):
    """The numbers of false positives and of false negatives."""
    return np.sum(predicted & (labels == 0)), np.sum(~predicted & (labels == 1))


@st.composite
def predictions(draw):
    size = draw(st.integers(1, 40))
    steps = draw(st.sampled_from([1, 3, 1000]))  # few values make ties
    values = st.integers(0, steps).map(lambda n: n / steps)
    probabilities = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    return probabilities, labels


@hypothesis.given(predictions())
@hypothesis.settings(max_examples=150, deadline=None)
def test_f1_is_the_best_there_is(drawn):
    probabilities, labels = drawn
    hypothesis.assume(labels.any())
    found = choose(Rule(F1), probabilities, labels)
    scores = []
    for cut in cuts(probabilities):
        hits = np.sum((probabilities >= cut) & (labels == 1))
        scores.append(2 * hits / (2 * hits + sum(wrong(labels, probabilities >= cut))))
    assert found.score == pytest.approx(max(scores))
    predicted = probabilities.astype(np.float64) >= found.value
    assert metrics.f1_score(labels, predicted, zero_division=0.0) == pytest.approx(found.score)
    assert found.images == len(labels)


@hypothesis.given(predictions(), st.sampled_from([(1, 1), (1, 5), (3, 0.5), (0, 1), (1, 0)]))
@hypothesis.settings(max_examples=150, deadline=None)
def test_cost_is_the_least_there_is(drawn, prices):
    probabilities, labels = drawn
    fp, fn = prices

    def cost(predicted):
        return np.dot([fp, fn], wrong(labels, predicted)) / len(labels)

    found = choose(Rule(COST, false_positive=fp, false_negative=fn), probabilities, labels)
    least = min(cost(probabilities >= cut) for cut in cuts(probabilities))
    assert found.score == pytest.approx(least)
    assert cost(probabilities.astype(np.float64) >= found.value) == pytest.approx(least)


def test_the_threshold_lies_amid_two_probabilities_and_near_to_theory():
    # Anything from above 0.2 to 0.8 parts them; the middle is 0.5.
    found = choose(Rule(F1), np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert found.value == pytest.approx(0.5)
    assert found.score == 1
    # At 0.3 and 0.7 the cost is the same, one mistake; a miss costs as much as a false alarm.
    probabilities, labels = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1])
    assert choose(Rule(COST), probabilities, labels).value in (
        pytest.approx(0.25),
        pytest.approx(0.75),
    )
    # Cheap misses put it up, cheap alarms down.
    assert choose(parse("cost:5,1"), probabilities, labels).value == pytest.approx(0.75)
    assert choose(parse("cost:1,5"), probabilities, labels).value == pytest.approx(0.25)
    # Where nothing is worth finding it is above every probability.
    none = choose(parse("cost:1,0"), np.array([1.0, 1.0]), np.array([0, 1]))
    assert none.value > 1
    assert none.score == 0


def test_neighbouring_float32_are_told_apart():
    low = np.float32(0.3)
    probabilities = np.array([low, np.nextafter(low, np.float32(1))])
    found = choose(Rule(F1), probabilities, np.array([0, 1]))
    assert (probabilities.astype(np.float64) >= found.value).tolist() == [False, True]


def test_parse():
    assert parse("0.25") == Rule(GIVEN, 0.25)
    assert parse("f1") == Rule(F1)
    assert parse("cost:1,2.5") == Rule(COST, false_positive=1.0, false_negative=2.5)
    assert str(choose(parse("0.25"), None, None)) == "0.25"
    for text in (
        *("1.5", "-0.1", "nan", "f2", "cost", "cost:", "cost:1", "cost:0,0", "cost:-1,1"),
        *("cost:1,inf", "cost:1,nan", "cost:a,b", "0.1,0.2", "f1:1", "given:0.5", "1,2"),
    ):
        with pytest.raises(UserError, match=rf"threshold={text}.: give a number") as caught:
            parse(text)
        assert caught.value.status == 2


def test_what_cannot_be_chosen_by_is_explained():
    with pytest.raises(UserError, match="no predictions"):
        choose(Rule(F1), np.array([]), np.array([]))
    with pytest.raises(UserError, match="none of the labelled images"):
        choose(Rule(F1), np.array([0.5]), np.array([0]))
    assert threshold.choose(Rule(COST), np.array([0.5]), np.array([0])).score == 0
