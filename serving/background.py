"""Work that nobody waits for, such as a version that is loaded beside others: it gives way."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from typing import ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")

# As nice(1) has it: a thirtieth of a processor's time where others want it too. The lowest, 19, is
# a seventieth, with which a load under load takes longer and disturbs others no less.
NICENESS = 15


def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function in a thread of low priority, and waits for it.

    A thread of Linux cannot have its priority raised again without privileges, and every thread
    that it starts has the same: so each call has its own, and what it calls should start none that
    stay. Nor should it hold Python's lock for long, as all others would wait with it. Where a
    thread has no priority of its own, or a sandbox forbids it, it runs like others.

    Returns:
        What the function does; an exception passes through, too.
    """
    found: futures.Future[R] = futures.Future()

    def work() -> None:
        try:
            _give_way()
            found.set_result(function(*args, **kwargs))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return found.result()


def _give_way() -> None:
    if sys.platform == "linux":
        thread = os.PRIO_PROCESS, threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(*thread, max(os.getpriority(*thread), NICENESS))
