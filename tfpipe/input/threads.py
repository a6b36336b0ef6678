"""Runs Python functions ahead on threads; of use where they release Python's lock."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def parallel_map(
    function: Callable[..., T],
    arguments: Iterable[tuple[Any, ...]],
    *,
    threads: int,
    ahead: int,
    in_order: bool = True,
) -> Iterator[T]:
    """Calls a function for each of the arguments, some calls ahead of what has been asked for.

    tf.data could do that too, but Python functions that its threads still run when the process
    ends abort it, or hang. These threads are over with the iterator, at the latest when Python
    ends, after the calls that have begun.

    Args:
        function: called on any of the threads.
        arguments: of each call; they are taken on the thread of who asks for results.
        threads: how many.
        ahead: how many calls may have begun, or have results that wait, at least 1.
        in_order: whether results come in the order of the arguments, or as they are ready.

    Yields:
        What the calls return. What one raises is raised here.
    """
    arguments = iter(arguments)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        calls: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            while True:
                # One call for all threads at a time: beside a device that is this CPU, a single
                # one would leave it alone with a core for most of a step, and idle at its end.
                if len(calls) <= max(0, ahead - threads):
                    while len(calls) < ahead and (following := next(arguments, None)) is not None:
                        calls.append(pool.submit(function, *following))
                if not calls:
                    return
                if not in_order:
                    first = concurrent.futures.FIRST_COMPLETED
                    done = concurrent.futures.wait(calls, return_when=first).done
                    ready = next(call for call in calls if call in done)
                    calls.remove(ready)
                    calls.appendleft(ready)
                yield calls.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
