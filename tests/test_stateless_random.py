"""The random numbers are uniform and independent."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfpipe.input import stateless_random

SAMPLES = np.arange(50_000, dtype=np.int64)


def drawn(seed=3, epoch=0, samples=SAMPLES, columns=4):
    return stateless_random.uniform(seed, epoch, samples, columns)


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES + (5 << 40)], ids=["first shard", "sixth"])
def test_uniform_and_uncorrelated(samples):
    found = drawn(samples=samples)
    assert found.dtype == np.float32
    assert 0 <= found.min() < 1e-3 < 1 - 1e-3 < found.max() < 1
    for column in found.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
        # Of one sample and the next.
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.02
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.02


@pytest.mark.parametrize("other", [{"seed": 4}, {"epoch": 1}])
def test_another_seed_or_epoch_gives_others(other):
    pair = np.corrcoef(drawn()[:, 0], drawn(**other)[:, 0])
    assert abs(pair[0, 1]) < 0.02


def test_independent_of_the_batch():
    whole = drawn()
    chosen = np.array([7, 49_999, 0])
    np.testing.assert_array_equal(drawn(samples=SAMPLES[chosen]), whole[chosen])


def test_follows_the_published_finaliser():
    """SplitMix64 with seed 1234567 begins with these (as in Rosetta Code's task)."""
    state, found = np.array([1234567], np.uint64), []
    with np.errstate(over="ignore"):
        for _ in range(3):
            found.append(int(stateless_random._mix(state)[0]))
            state = state + np.uint64(0x9E3779B97F4A7C15)
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, -1, 2**62])
def test_a_graph_draws_the_same(seed):
    ids = np.concatenate([SAMPLES[:100], [2**60 - 1, 2**62 + 5]])
    graph = tf.function(lambda ids: stateless_random.uniform(seed, 7, ids, 4))
    found = graph(tf.constant(ids)).numpy()
    np.testing.assert_array_equal(found, drawn(seed=seed, epoch=7, samples=ids))
    assert found.dtype == np.float32


def test_no_columns_and_any_key():
    assert drawn(columns=0).shape == (len(SAMPLES), 0)
    assert drawn(seed=-1, epoch=2**40, samples=np.array([2**62 + 5])).shape == (1, 4)
