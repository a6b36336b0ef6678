"""Python functions in tf.data, and the end of the process.

A thread of TensorFlow that wants to run Python after the interpreter has begun to end stops for
good, and whoever deletes its iterator waits for it for ever. So the calls end before: at exit those
that run are waited for, and later ones return at once.
"""

import atexit
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# tf.data fills its buffers with the answers of the last calls; no call for so long means it has.
_QUIET_S = 0.05
_MOST_S = 10.0


class _Calls:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.last = 0.0
        self.ended = False

    def begin(self) -> bool:
        """Count a call; return whether it may still do its work."""
        with self.lock:
            self.running += 1
            return not self.ended

    def finish(self) -> None:
        with self.lock:
            self.running -= 1
            self.last = time.monotonic()

    def end(self) -> None:
        """Wait until no call runs or follows."""
        with self.lock:
            self.ended = True
        start = time.monotonic()
        while time.monotonic() - start < _MOST_S:
            with self.lock:
                if not self.running and time.monotonic() - max(self.last, start) > _QUIET_S:
                    return
            time.sleep(_QUIET_S / 5)


_calls = _Calls()
atexit.register(_calls.end)


def until_exit(function: Callable[P, R], afterwards: Callable[P, R]) -> Callable[P, R]:
    """Return a function for tf.data; once the process ends, it calls `afterwards` instead."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return (function if _calls.begin() else afterwards)(*args, **kwargs)
        finally:
            _calls.finish()

    return call
