"""Files that are read ahead: the same bytes, several requests at a time, none in vain."""

import collections
import concurrent.futures
import io
import threading

import numpy as np
import pytest

from tfpipe.core import read_ahead
from tfpipe.core.read_ahead import ReadAhead

BLOCK = 1000


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", BLOCK)
    return np.random.default_rng(0).bytes(20 * BLOCK + 17)


class Store:
    """Answers requests from memory, and keeps them."""

    def __init__(self, data, together=1):
        self.data, self.requests, self.changed = data, [], threading.Condition()
        self.behind = (together - 1) * BLOCK

    def __call__(self, offset, size):
        last = min(offset + self.behind, (len(self.data) - 1) // BLOCK * BLOCK)
        with self.changed:
            self.requests.append((offset, size))
            self.changed.notify_all()
            begun = self.changed.wait_for(
                lambda: not self.behind or any(o == last for o, _ in self.requests), timeout=20
            )
        if not begun:
            raise OSError(f"the request at {last} did not begin")
        return self.data[offset : offset + size]


def opened(store, **options):
    return io.BufferedReader(ReadAhead(store, len(store.data), **options), BLOCK)


@pytest.mark.parametrize("sequential", [False, True])
def test_any_part_is_what_the_file_has(data, sequential):
    rng, expected = np.random.default_rng(1), io.BytesIO(data)
    with opened(Store(data), sequential=sequential) as file:
        for offset, size in rng.integers(0, (len(data) + 9, 4000), (300, 2)):
            assert file.seek(int(offset)) == expected.seek(int(offset))
            assert file.read(int(size)) == expected.read(int(size))
        file.seek(0)
        assert file.read() == data
        assert file.read(1) == b""


def test_a_file_in_order_is_requested_block_by_block_and_several_at_a_time(data, monkeypatch):
    """Each request waits until the three behind it have begun: one by one would never end."""
    # Python 3.11 counts threads of a used pool as idle that are not, and then starts too few.
    pool = concurrent.futures.ThreadPoolExecutor(read_ahead.AHEAD)
    monkeypatch.setattr(read_ahead, "_requests", lambda: pool)
    store = Store(data[: 20 * BLOCK], together=4)
    with opened(store, sequential=True) as file:
        assert b"".join(iter(lambda: file.read(333), b"")) == store.data
    assert sorted(store.requests) == [(i * BLOCK, BLOCK) for i in range(20)]


def test_reading_here_and_there_requests_nothing_in_vain(data):
    store = Store(data)
    with opened(store) as file:
        for index in (19, 3, 11, 0, 7):
            file.seek(index * BLOCK + 10)
            file.read(20)
    assert store.requests == [(i * BLOCK, BLOCK) for i in (19, 3, 11, 0, 7)]


def test_a_request_that_failed_is_made_again(data):
    failures = collections.Counter()

    def fail_once(offset, size):
        failures[offset] += 1
        if failures[offset] == 1:
            raise OSError(5, "away")
        return data[offset : offset + size]

    with io.BufferedReader(ReadAhead(fail_once, len(data)), BLOCK) as file:
        with pytest.raises(OSError, match="away"):
            file.read(10)
        assert file.read(10) == data[:10]
