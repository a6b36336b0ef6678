"""Repeats a step on a thread of its own, whatever errors it meets."""

import threading
from collections.abc import Callable

from tfpipe.core import terminal


class Watcher(threading.Thread):
    """Calls `step` every `interval_s` seconds until `stop` is set.

    No error ends the thread: files systems fail for a while. Each error is reported once, and again
    after a step that succeeded.
    """

    def __init__(self, step: Callable[[], None], interval_s: float, stop: threading.Event):
        """Prepare the thread; `step` raises UserError or RequestError for what went wrong."""
        super().__init__(daemon=True)
        self._step, self._interval_s, self._stop_event = step, interval_s, stop

    def run(self) -> None:
        """Repeat until the event is set."""
        reported = ""
        while not self._stop_event.wait(self._interval_s):
            try:
                self._step()
                error = ""
            except Exception as caught:
                error = str(caught) or type(caught).__name__
            if error and error != reported:
                terminal.error(error)
            reported = error
