"""SIGTERM and Ctrl-C, for a process that serves until one of them comes."""

import queue
import signal
import time

# How often `wait` wakes up. A signal just before the main thread sleeps, or to another thread, does
# not wake it.
_LOOK_S = 1.0


class Signals:
    """The signals received since this object was made; make it in the main thread."""

    def __init__(self):
        # Not an Event: a handler runs anywhere in the main thread, also inside Event.wait while
        # that holds the lock which Event.set needs. A SimpleQueue takes no lock that Python holds.
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: self._received.put(received))

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait for a signal, in the main thread; return whether one came in time."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._received.get(timeout=max(0.0, min(_LOOK_S, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end:
                    return False
            else:
                return True
