"""Worker processes with bounded memory and time, of which a lost one costs one image.

A decoder that is given a hostile file may run for minutes, take all memory or crash. So images are
decoded in processes that end when one image takes more than `SECONDS` or needs more than
`MEMORY_BYTES`; a new process takes the place of one that ended, and its images are tried again one
at a time, so that only the one at fault is rejected.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from tfpipe.building.tasks import Job
from tfpipe.core import allocator
from tfpipe.core.errors import ResumableError

SECONDS = 10  # of wall time, for one image
# Of private memory, above the 60 MB that a worker has at its start: less than 512 MB in all.
MEMORY_BYTES = 416 * 2**20

# Of memory for pixels, or for their hashes; to map and unmap it anew for each few images would take
# a tenth of the time.
_KEPT_BYTES = 16 * 2**20

# A pool in which more processes than this end before they could take a task is at fault itself.
_MAX_FAILURES = 3

# Tasks that a worker has: one to do, and one to go on with at once.
_AHEAD = 2

_GRACE_SECONDS = 2  # that a process with nothing to do has to end by itself

# What a worker says: it can begin, it has begun with a task, it is done with it.
_READY, _TAKEN, _DONE = "ready", "taken", "done"

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

    Each has a connection of its own, so that one that ends, at whatever moment, leaves the others
    alone. Use it in a `with` statement; all processes are gone at its end.
    """

    def __init__(self, job: Job, count: int):
        """Makes a pool of `count` processes; they start with the first task."""
        self._job, self._count = job, count
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        start_early()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

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
        failures = 0
        while waiting or any(worker.items for worker in self._workers):
            busy = sum(bool(worker.items) for worker in self._workers)
            while len(self._workers) < min(self._count, busy + len(waiting)):
                self._workers.append(_Worker(self._job))
            for most in (1, _AHEAD):  # first something to do for each
                for worker in self._workers:
                    worker.give(function, waiting, most)
            for worker in _ready(self._workers):
                try:
                    answers = worker.answers()
                except EOFError:
                    self._workers.remove(worker)
                    item = worker.items.popleft() if worker.has_taken else None
                    waiting.extendleft(reversed(worker.items))
                    failures += not worker.is_ready
                    if failures > _MAX_FAILURES:
                        raise ResumableError(
                            "worker processes end as soon as they start, perhaps for lack of"
                            " memory: use fewer --workers, or free some memory"
                        ) from None
                    status = worker.end()
                    if item is not None:
                        yield item, _why(status)
                    continue
                for error, text in answers:
                    item = worker.items.popleft()
                    if error is not None and not isinstance(error, MemoryError):
                        raise error from _InWorker(text)
                    # Of a task for many images, perhaps, none of which is at fault alone.
                    lost = Lost("too large", "not enough memory for it") if error else None
                    yield item, lost


class _InWorker(Exception):  # noqa: N818 (it is never raised, but shown as the cause of another)
    """The traceback of what a task raised."""


class _Worker:
    """One process.

    Attributes:
        items: what it was given and has not answered yet; it works on the first.
        is_ready: whether it has come so far as to take one.
        has_taken: whether it has begun with the first.
    """

    def __init__(self, job: Job):
        self.items: collections.deque = collections.deque()
        self.is_ready = self.has_taken = False
        with _interrupts_held(), _one_thread():
            context = _context()
            self.connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_work, args=(theirs, job, SECONDS, MEMORY_BYTES), daemon=True
            )
            self._process.start()
            theirs.close()  # so that the connection ends when the process does

    def give(self, function: Callable, waiting: collections.deque, most: int) -> None:
        """Gives it items until it has `most`."""
        while waiting and len(self.items) < most:
            self.items.append(waiting.popleft())
            with contextlib.suppress(OSError):  # it has ended, which `answers` will tell
                self.connection.send((function, self.items[-1]))

    def answers(self) -> list[tuple[Exception | None, str]]:
        """Returns what has come of some of its first items; raises EOFError if it has ended."""
        answers = []
        while self.connection.poll():
            try:
                kind, *answer = self.connection.recv()
            except OSError:  # the other end was closed in the middle
                raise EOFError from None
            self.is_ready = True
            self.has_taken = kind == _TAKEN
            if kind == _DONE:
                answers.append(tuple(answer))
                break  # the next, if any, may be the end; what is known is told first
        return answers

    def end(self) -> int:
        """Ends the process, if it has not ended, and returns its exit status."""
        self.connection.close()
        if self._process.is_alive():
            # It may be deaf to anything else, and what it has written is whole or not there.
            self._process.join(_GRACE_SECONDS if not self.items else 0)
            self._process.kill()
        self._process.join()
        return self._process.exitcode


def _ready(workers: list[_Worker]) -> list[_Worker]:
    """Waits until some workers have answered or ended, and returns them."""
    by_connection = {worker.connection: worker for worker in workers}
    ready = multiprocessing.connection.wait(list(by_connection))
    return [by_connection[connection] for connection in ready]


def _context() -> multiprocessing.context.BaseContext:
    """Returns how processes are started.

    They are not forked from here: a copy of a process that has threads may hang. The server that
    forks them has the modules loaded, so that a new process takes milliseconds. Its socket lies in
    the temporary folder and cannot have a long name; where that is long, each process loads them.
    """
    if len(os.fsencode(tempfile.gettempdir())) > _MAX_TEMPORARY_PATH:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([n for n in sys.modules if n.startswith("tfpipe.")])
    return context


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
    allocator.keep_small_blocks(_KEPT_BYTES)
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


def _work(connection: multiprocessing.connection.Connection, *arguments: Any) -> None:
    """What a process does until its connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the parent has ended, or needs no more
        _start(*arguments)
        connection.send((_READY,))
        while True:
            function, item = connection.recv()
            connection.send((_TAKEN,))
            connection.send((_DONE, *_call(function, item)))


def _call(function: Callable, item: Any) -> tuple[Exception | None, str]:
    """Returns what a task raised, or None, and its traceback."""
    try:
        function(_job, item, _restart_clock)
    except Exception as error:
        return error, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None, ""


def _restart_clock() -> None:
    signal.setitimer(signal.ITIMER_REAL, _seconds)
