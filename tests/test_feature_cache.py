"""The cache of features: complete or missing, verified, bounded, and clear about a full disk."""

import json
import os
import time

import numpy as np
import pytest
import tensorflow as tf

import tfpipe
from tests.refusals import refused
from tfpipe.core import storage
from tfpipe.training import feature_cache
from tfpipe.training.feature_cache import Column, FeatureCache

COLUMNS = [Column("features0", (2, 3), "float32"), Column("label", (), "int64")]
ROWS = 10


def rows():
    values = np.random.default_rng(0).normal(size=(ROWS, 2, 3)).astype(np.float32)
    return values, np.arange(ROWS)


class Computed:
    """Yields rows in parts, and counts how often it is asked to."""

    times = 0

    def __iter__(self):
        self.times += 1
        values, labels = rows()
        for start in range(0, ROWS, 4):
            yield [values[start : start + 4], labels[start : start + 4]]


def get(folder, computed, **cache_key):
    return FeatureCache(folder, 1.0).get(cache_key, COLUMNS, ROWS, computed)


def test_what_was_computed_once_is_found_by_its_key(tmp_path):
    computed = Computed()
    for _ in range(2):
        found = get(tmp_path, computed, weights="a")
        for array, expected in zip(found, rows(), strict=True):
            assert np.array_equal(array, expected)
    assert computed.times == 1
    for cache_key in ({"weights": "b"}, {"weights": "a", "view": 1}):
        get(tmp_path, computed, **cache_key)
    assert computed.times == 3


@pytest.mark.parametrize(
    ("module", "name"),
    [(tfpipe, "__version__"), (tf, "__version__"), (feature_cache, "FORMAT")],
)
def test_another_version_computes_again(tmp_path, monkeypatch, module, name):
    computed = Computed()
    get(tmp_path, computed)
    monkeypatch.setattr(module, name, "other")
    get(tmp_path, computed)
    assert computed.times == 2


@pytest.mark.parametrize("name", ["features0.npy", feature_cache.META])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_entry_is_computed_again(tmp_path, capfd, name, damage):
    computed = Computed()
    get(tmp_path, computed)
    (path,) = tmp_path.glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    again = get(tmp_path, computed)
    assert np.array_equal(again[0], rows()[0])
    # A flipped bit in meta.json's key changes nothing that is read.
    assert computed.times == 2 or (name == feature_cache.META and damage == "flip")
    if computed.times == 2:
        assert "is damaged" in capfd.readouterr().err


def test_an_interrupted_entry_is_missing(tmp_path):
    def interrupted():
        yield from list(Computed())[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, interrupted())
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_an_error_before(tmp_path, monkeypatch):
    usage = feature_cache.shutil.disk_usage(tmp_path)._replace(free=2**28 + 100)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage)
    with refused(r"has 0.3 GB free: .*feature_cache"):
        get(tmp_path / "not" / "there", Computed())
    assert not (tmp_path / "not").exists()


def test_a_disk_that_becomes_full_leaves_nothing(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    real = open

    def full(path, mode):
        file = real(path, mode)
        os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "open", full, raising=False)
        with refused(r"cannot write .*No space left"):
            get(tmp_path, Computed())
    assert not list(tmp_path.iterdir())


ROW_BYTES = 2 * 3 * 4 + 8


def test_the_bound_counts_every_byte_of_all_parts_together():
    cache = FeatureCache(None, 100 * ROW_BYTES / 1e9)
    assert [cache.reserve("train", COLUMNS, rows) for rows in (101, 60, 60)] == [False, True, True]
    assert cache.left_gb == pytest.approx(40 * ROW_BYTES / 1e9)
    assert [cache.reserve("val", COLUMNS, rows) for rows in (41, 40)] == [False, True]
    assert [cache.reserve("other", COLUMNS, rows) for rows in (1, 0)] == [False, True]


def entries(folder):
    """The cache keys of the entries that a folder has."""
    found = [json.loads(path.read_text())["cache_key"]["n"] for path in folder.glob("*/meta.json")]
    return sorted(found)


def test_the_least_recently_used_make_room(tmp_path, capfd):
    """Two entries fit; files beside them, which are not ours, stay."""
    whole = storage_bytes(tmp_path / "one")
    cache = tmp_path / "cache"
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "photo.jpg").write_bytes(b"x" * 10_000)
    limit = 2.2 * whole / 1e9
    for number in range(3):
        FeatureCache(cache, 1.0).get({"n": number}, COLUMNS, ROWS, Computed())
    for age, number in ((300, 1), (200, 2), (100, 0)):
        key = next(p for p in cache.glob("*/meta.json") if f'"n": {number}' in p.read_text())
        os.utime(key, (time.time() - age,) * 2)
    FeatureCache(cache, limit).find({"n": 2}, COLUMNS, ROWS)  # a use
    capfd.readouterr()
    FeatureCache(cache, limit).get({"n": 3}, COLUMNS, ROWS, Computed())
    assert entries(cache) == [2, 3]
    assert "2 not used for longest" in capfd.readouterr().err
    FeatureCache(cache, limit).get({"n": 3}, COLUMNS, ROWS, Computed())
    assert capfd.readouterr().err == ""
    assert (cache / "mine" / "photo.jpg").stat().st_size == 10_000


def storage_bytes(folder):
    """The bytes of an entry on the disk."""
    get(folder, Computed(), n=0)
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_what_an_entry_is_computed_from_stays(tmp_path):
    """The features at an earlier layer, read while the next ones are computed."""
    limit = 2.2 * storage_bytes(tmp_path / "one") / 1e9
    folder = tmp_path / "cache"
    for number in range(2):
        FeatureCache(folder, 1.0).get({"n": number}, COLUMNS, ROWS, Computed())
    for path in folder.glob("*/meta.json"):  # 0 is the older one
        age = 200 if '"n": 0' in path.read_text() else 100
        os.utime(path, (time.time() - age,) * 2)
    cache = FeatureCache(folder, limit)

    def from_the_older():
        cache.find({"n": 0}, COLUMNS, ROWS)
        yield from Computed()

    cache.get({"n": 2}, COLUMNS, ROWS, from_the_older())
    assert entries(folder) == [0, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_precision_is_kept_to_the_bit(tmp_path, dtype):
    column = Column("features0", (5,), dtype)
    values = tf.cast(tf.random.stateless_normal([4, 5], [1, 2]), dtype)
    (found,) = FeatureCache(tmp_path, 1.0).get({}, [column], 4, iter([[values.numpy()]]))
    tensor = column.tensor(np.take(found, [2, 0], axis=0))
    assert tensor.dtype == values.dtype
    assert np.array_equal(tf.cast(tensor, "float32"), tf.cast(tf.gather(values, [2, 0]), "float32"))
    assert storage.size(next(tmp_path.glob("*/features0.npy"))) >= 4 * column.row_bytes
