"""Python functions on threads; useful where they release Python's lock."""

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
    """Call a function for each of the arguments, some calls ahead of the consumer.

    tf.data could do that, but a Python function that its threads still run at the end of the
    process aborts it or hangs. These threads end with the iterator, or with Python, after the
    calls that have begun.

    Args:
        function: called on any of the threads.
        arguments: of each call, read on the consumer's thread.
        threads: number of threads.
        ahead: calls that may run or wait with their result, at least 1.
        in_order: yield results in the order of the arguments; else as they are ready.

    Yields:
        The results. An exception of a call is raised here.
    """
    arguments = iter(arguments)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        calls: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            while True:
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
