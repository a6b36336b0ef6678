"""Worker processes with bounded memory and time, of which a lost one costs one image.

A decoder that is given a hostile file may run for minutes, take all memory or crash. So images are
decoded in processes that end when one image takes more than `SECONDS` or needs more than
`MEMORY_BYTES`; a new process takes the place of one that ended, and its images are tried again one
at a time, so that only the one at fault is rejected.
"""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import resource
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import pebble

from tfpipe.errors import ResumableError
from tfpipe.ingest.tasks import Job

SECONDS = 10  # of wall time, for one image
# Of private memory, above the 60 MB that a worker has at its start: less than 512 MB in all.
MEMORY_BYTES = 416 * 2**20

# A pool that loses this many processes, one after the other, without any task done, is at fault
# itself.
_MAX_RESTARTS = 3

_CHECK_SECONDS = 2  # without any task done, before the processes are looked at

# man 7 unix: a socket's name has 108 bytes; Python adds "/pymp-12345678/listener-12345678".
_MAX_TEMPORARY_PATH = 107 - 40


def start_early() -> None:
    """Starts the server that forks the workers, which imports while this process lists files."""
    # Started before, as it would let an interrupt through to the process that is started next.
    multiprocessing.resource_tracker.ensure_running()
    with _interrupts_held(), _one_thread():
        if _context().get_start_method() == "forkserver":
            multiprocessing.forkserver.ensure_running()


class Lost(NamedTuple):
    """Why a process ended before its task did: a reason and a detail, as in `Reject`."""

    reason: str
    detail: str


class Pool:
    """Processes that run tasks of one build.

    Use it in a `with` statement; all processes are gone at its end.
    """

    def __init__(self, job: Job, count: int):
        """Makes a pool of `count` processes; they start with the first task."""
        self._job, self._count = job, count
        self._pool: pebble.ProcessPool | None = None

    def __enter__(self) -> "Pool":
        start_early()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def run(self, function: Callable, items: Iterable) -> Iterator[tuple[Any, Lost | None]]:
        """Runs `function(job, item, before_each)` in some process for each of the items.

        Args:
            function: one of `tasks`.
            items: what it is called with, one after the other.

        Yields:
            Each item when it is done, in any order, with why it was lost, if so.

        Raises:
            Exception: what the function raised.
            UserError: no process stays alive.
        """
        waiting = collections.deque(items)
        running: dict[concurrent.futures.Future, Any] = {}
        restarts = 0
        while waiting or running:
            try:
                # A bounded queue, so that a million tasks do not pile up in it.
                while waiting and len(running) < 4 * self._count:
                    with _interrupts_held():
                        running[self._schedule(function, waiting[0])] = waiting[0]
                    waiting.popleft()
                done, _ = concurrent.futures.wait(
                    running, _CHECK_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
                )
                if not done:
                    self._check()
                for future in done:
                    lost = _outcome(future)
                    restarts = 0
                    yield running.pop(future), lost
            except BrokenProcessPool:
                restarts += 1
                if restarts > _MAX_RESTARTS:
                    raise ResumableError(
                        "worker processes end as soon as they start, perhaps for lack of memory:"
                        " use fewer --workers, or free some memory"
                    ) from None
                waiting.extend(running.values())
                running.clear()
                self._close()

    def _schedule(self, function: Callable, item: Any) -> concurrent.futures.Future:
        try:
            return self._opened().schedule(_call, (function, item))
        except RuntimeError as error:  # what pebble raises if the pool broke since the last task
            raise BrokenProcessPool from error

    def _check(self) -> None:
        """Raises BrokenProcessPool if a task's process is gone, and pebble waits for it.

        Pebble looks only once, when a process ends, for the task that it had: perhaps before it
        has read the message that tells.
        """
        manager = self._pool._pool_manager  # there is no public way to ask
        alive = set(manager.worker_manager.workers)
        for task in list(manager.task_manager.tasks.values()):
            if task.started and task.worker_id not in alive:
                raise BrokenProcessPool

    def _opened(self) -> pebble.ProcessPool:
        if self._pool is None:
            context = _context()
            with _one_thread():
                self._pool = pebble.ProcessPool(
                    self._count,
                    initializer=_start,
                    initargs=(self._job, SECONDS, MEMORY_BYTES),
                    context=context,
                )
                # Tasks start it; a first, empty one does so while the variables are set.
                self._pool.schedule(int).result()
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _context() -> multiprocessing.context.BaseContext:
    """Returns how processes are started.

    They are not forked from here: a copy of a process that has threads may hang. The server that
    forks them has the modules loaded, so that a new process takes milliseconds. Its socket lies in
    the temporary folder and cannot have a long name; where that is long, each process loads them.
    """
    if len(os.fsencode(tempfile.gettempdir())) > _MAX_TEMPORARY_PATH:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.startswith("tfpipe.")])
    return context


def _outcome(future: concurrent.futures.Future) -> Lost | None:
    """Returns why a task was lost, if so; raises what it raised."""
    try:
        future.result()
    except pebble.ProcessExpired as error:
        return _why(error.exitcode)
    except MemoryError:  # of a task for many images, perhaps, none of which is at fault
        return Lost("too large", "not enough memory for it")
    return None


def _why(status: int) -> Lost:
    if status == -signal.SIGALRM:
        return Lost("too slow", f"takes more than {SECONDS} s to decode")
    what = f"signal {-status}" if status < 0 else f"exit status {status}"
    return Lost("crash", f"the process that decoded it ended ({what})")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Has processes that are started in the block not start threads for linear algebra.

    There is a process on every core already, and each thread would reserve memory.
    """
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Puts Ctrl-C off until the block ends; a process that is started in it never gets one.

    A terminal interrupts the workers too, but it is the parent that ends them, without a traceback
    of theirs. It must not be interrupted while it starts one, which would find half its input.
    """
    held = []
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread:  # where Python handles signals, whichever thread they reach
        handler = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if on_main_thread:
            signal.signal(signal.SIGINT, handler)
        if held:  # which also explains whatever went wrong in the block
            raise KeyboardInterrupt


# Of this process.
_job: Job
_seconds: float


def _start(job: Job, seconds: float, memory_bytes: int) -> None:
    global _job, _seconds
    _job, _seconds = job, seconds
    warnings.simplefilter("ignore")  # Pillow's, about metadata; what matters is in the result
    # The C libraries below Pillow print what they think of damaged files. An exception of ours
    # does not need the stream: it travels to the parent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for source in job.sources:
        source.prepare()  # which is no part of the time and memory for an image
    resource.setrlimit(resource.RLIMIT_DATA, (_memory() + memory_bytes,) * 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, even inside a decoder


def _memory() -> int:
    """Returns the bytes of private memory of this process, as RLIMIT_DATA counts them."""
    with open("/proc/self/statm") as file:  # man 5 proc: the sixth is data and stack, in pages
        return int(file.read().split()[5]) * resource.getpagesize()


def _call(function: Callable, item: Any) -> None:
    try:
        function(_job, item, _restart_clock)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _restart_clock() -> None:
    signal.setitimer(signal.ITIMER_REAL, _seconds)
