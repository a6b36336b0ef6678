"""Statistics of images, against hand-made values, the standard library and SciPy."""

import json
import random
import statistics as reference

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mstats

from tfpipe.building import statistics
from tfpipe.building.statistics import DIGITS, QUANTILES
from tfpipe.images.image_info import ImageInfo, ImageRef
from tfpipe.images.image_table import ImageTable


def found(width, height, size=1000, color=(10.0, 20.0, 30.0)):
    stored = {"format": "jpeg", "height": 1, "width": 1, "bytes": 1}  # must not count
    hashes = {"sha256": "0" * 64, "file_sha256": "0" * 64, "hash": "0" * 16}
    file = {"file_bytes": size, "file_height": height, "file_width": width, "color": color}
    return ImageInfo(ref=ImageRef(0, "a.jpg"), converted="", **stored, **hashes, **file)


def describe(images, labels):
    return statistics.describe(ImageTable.of_infos(images), labels)


def test_three_images_by_hand():
    images = [
        found(400, 200, 8_000, (0, 0, 255)),
        found(100, 200, 2_000, (255, 0, 0)),
        found(200, 200, 4_000, (0, 127.5, 0)),
    ]
    described = describe(images, ["dog", "cat", "dog"])
    everything = described["all"]
    assert everything["images"] == 3
    # Of 100, 200 and 400: 5 % lies at 0.1 of the way from the first to the second.
    expected = {"min": 100, "p5": 110, "p25": 150, "median": 200, "p75": 300, "p95": 380}
    assert everything["width"] == {**expected, "max": 400}
    assert set(everything["height"].values()) == {200}
    assert everything["aspect"]["min"] == 0.5
    assert everything["aspect"]["max"] == 2
    assert everything["bytes"]["median"] == 4_000
    assert set(everything["bytes_per_pixel"].values()) == {0.1}
    assert everything["color"] == [85, 42.5, 85]
    assert list(described["classes"]) == ["cat", "dog"]
    cat = described["classes"]["cat"]
    assert (cat["images"], set(cat["width"].values()), cat["color"]) == (1, {100}, [255, 0, 0])


image = st.builds(
    found,
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.integers(1, 10**9),
    st.tuples(*[st.floats(0, 255)] * 3),
)


@given(st.lists(st.tuples(image, st.sampled_from("abc")), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_against_scipy_and_in_any_order(pairs):
    described = describe(*zip(*pairs, strict=True))
    assert json.loads(json.dumps(described)) == described
    for label, summary in [("abc", described["all"]), *described["classes"].items()]:
        images = [each for each, name in pairs if name in label]
        assert summary["images"] == len(images)
        measures = {
            "width": [i.file_width for i in images],
            "height": [i.file_height for i in images],
            "aspect": [i.file_width / i.file_height for i in images],
            "bytes": [i.file_bytes for i in images],
            "bytes_per_pixel": [i.file_bytes / i.file_width / i.file_height for i in images],
        }
        for name, values in measures.items():
            # alphap = betap = 1 is definition 7 of Hyndman and Fan.
            expected = mstats.mquantiles(values, list(QUANTILES.values()), alphap=1, betap=1)
            error = 0.5 * 10.0 ** -DIGITS[name] * (1 + 1e-6) + 1e-12 * max(values)
            np.testing.assert_allclose(list(summary[name].values()), expected, 0, error)
        for channel, mean in enumerate(summary["color"]):
            exact = reference.fmean(i.color[channel] for i in images)
            assert mean == pytest.approx(exact, abs=0.00501)
    random.Random(0).shuffle(pairs)
    assert describe(*zip(*pairs, strict=True)) == described


def test_the_order_does_not_matter_where_a_sum_would_drift():
    # A plain sum of these is 1e16 or 1e16 + 2, as they come.
    tiny = [found(1, 1, color=(1.0, 0, 0))] * 2
    large = [found(1, 1, color=(1e16, 0, 0)), found(1, 1, color=(-1e16, 0, 0))]
    first, second = [large[0], *tiny, large[1]], [*large, *tiny]
    assert describe(first, "aaaa") == describe(second, "aaaa")
    assert describe(first, "aaaa")["all"]["color"] == [0.5, 0, 0]


def test_whole_numbers_have_no_point():
    summary = describe([found(3, 2), found(4, 2)], ["a", "a"])["all"]
    assert json.dumps(summary["width"]["min"]) == "3"
    assert json.dumps(summary["width"]["median"]) == "3.5"
    assert all(isinstance(value, int) for value in summary["bytes"].values())
    assert statistics.DIGITS.keys() < summary.keys()
