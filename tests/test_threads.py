"""`parallel_map`: order, limits, exceptions and the end of its threads."""

import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from tfpipe.input.threads import parallel_map


def slow_first(number):
    time.sleep(0.2 if number == 0 else 0)
    return number


@pytest.mark.parametrize("in_order", [True, False])
def test_results_come_in_order_or_as_they_are_ready(in_order):
    calls = ((n,) for n in range(50))
    found = list(parallel_map(slow_first, calls, threads=4, ahead=8, in_order=in_order))
    assert sorted(found) == list(range(50))
    assert (found == list(range(50))) == in_order


@pytest.mark.parametrize("ahead", [1, 3, 4, 6, 20])
def test_each_result_begins_another_call(ahead):
    """Also where fewer calls may be ahead than there are threads (4)."""
    begun = threading.Semaphore(0)

    def work(number):
        begun.release()
        return number

    found = parallel_map(work, ((n,) for n in range(100)), threads=4, ahead=ahead)
    for _ in range(ahead):
        next(found)
        # One call has ended for each result, and another took its place.
        assert begun.acquire(timeout=20)
    for _ in range(ahead - 1):
        assert begun.acquire(timeout=20), "a call that is ahead has begun"
    found.close()


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_no_more_calls_begin_than_may_be_ahead(ahead):
    begun = []
    found = parallel_map(begun.append, ((n,) for n in range(100)), threads=4, ahead=ahead)
    for asked in range(1, 6):
        next(found)
        time.sleep(0.02)
        assert len(begun) <= asked - 1 + ahead
    found.close()


def test_what_a_call_raises_is_raised_and_the_threads_end():
    def fail(number):
        if number == 3:
            raise ValueError("the fourth")
        return number

    before = threading.active_count()
    found = parallel_map(fail, ((n,) for n in range(100)), threads=2, ahead=4)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(found)
    assert threading.active_count() == before


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(7)", "os.kill(os.getpid(), 2)"])
def test_a_process_ends_while_calls_are_under_way(end):
    """Also if something still holds the iterator; a tf.data function would abort the process."""
    code = f"""
import itertools, os, time
from tfpipe.input.threads import parallel_map
def work(n):
    time.sleep(0.05)
    return n
kept = parallel_map(work, ((n,) for n in itertools.count()), threads=2, ahead=6)
print(next(kept), next(kept))
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stdout == "0 1\n"
    assert done.returncode == {"p": 0, "r": 7, "o": -2}[end[0]]
    assert "terminate" not in done.stderr
