"""Worker processes with bounded memory and time; a lost one costs one image.

A decoder may run for minutes on a hostile file, take all memory or crash. So images are decoded in
processes that end when one image takes more than `SECONDS` or needs more than `MEMORY_BYTES`. A new
process replaces one that ended. Its images are tried again one at a time, so that only the one at
fault is rejected.
"""

import collections
import contextlib
import itertools
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
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ExceptionWithTraceback
from typing import Any, NamedTuple

from tfpipe.building.job import Job
from tfpipe.core.errors import ResumableError

SECONDS = 10  # of wall time, to decode one image; reading it from a slow disk has no limit
# Of private memory, above the 60 MB that a worker has at its start: less than 512 MB in all.
MEMORY_BYTES = 416 * 2**20

# If more processes than this end before they are ready, the pool itself is at fault.
_MAX_FAILURES = 3

_GRACE_SECONDS = 2  # for an idle process to end by itself

# One thread for linear algebra: there is a process on every core, and further threads would reserve
# memory. glibc keeps freed blocks of up to 16 MiB for the next image: 1.1 x as fast.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}

# All that tasks import. The program may have loaded more, such as TensorFlow, for which the workers
# would wait.
_PRELOADED = ("tfpipe.building.scan", "tfpipe.building.shards")

# man 7 unix: a socket's name has 108 bytes; Python adds "/pymp-12345678/listener-12345678".
_MAX_TEMPORARY_PATH = 107 - 40


class LostTask(NamedTuple):
    """Why a process ended before its task did: a reason and a detail, as in `Reject`."""

    reason: str
    detail: str


def start_early() -> None:
    """Start the server that forks the workers; it imports while this process lists files."""
    multiprocessing.resource_tracker.ensure_running()  # it would unblock interrupts later
    with _starting():
        if _context().get_start_method() == "forkserver":
            multiprocessing.forkserver.ensure_running()


class Pool:
    """Processes that run the tasks of one build.

    Each has its own connection, so the end of one leaves the others alone. Use the pool in a `with`
    statement; all processes are gone at its end.
    """

    def __init__(self, job: Job, count: int):
        """Make a pool of `count` processes; they start with the first task."""
        self._job, self._count = job, count
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        start_early()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def run(self, function: Callable, items: Iterable) -> Iterator[tuple[Any, LostTask | None]]:
        """Run `function(job, item, limit)` in some process for each of the items.

        Args:
            function: a function of a module, which a process can import.
            items: its arguments, one for each call; only as many as can run are taken ahead.

        Yields:
            Each item when it is done, in any order, with why it was lost, or None.

        Raises:
            Exception: what the function raised.
            UserError: no process stays alive.
        """
        items, waiting = iter(items), collections.deque()
        failures = 0
        while True:
            waiting.extend(itertools.islice(items, self._count - len(waiting)))
            if not waiting and all(worker.item is None for worker in self._workers):
                return
            busy = sum(worker.item is not None for worker in self._workers)
            while len(self._workers) < min(self._count, busy + len(waiting)):
                self._workers.append(_Worker(self._job))
            for worker in self._workers:
                if worker.is_idle and waiting:
                    worker.give(function, waiting)
            for worker in _wait(self._workers):
                item = worker.item
                try:
                    error = worker.receive()
                except (EOFError, OSError):  # the process has ended
                    self._workers.remove(worker)
                    status = worker.end()
                    failures += not worker.is_ready
                    if failures > _MAX_FAILURES:
                        raise ResumableError(
                            "worker processes end as soon as they start, perhaps for lack of"
                            " memory: use fewer `workers`, or free some memory"
                        ) from None
                    if item is not None:
                        yield item, _explain(status)
                    continue
                if item is None:  # it is ready
                    continue
                if error is not None and not isinstance(error, MemoryError):
                    raise error
                # A task of many images may lack memory without any of them being at fault.
                yield item, LostTask("too large", "not enough memory for it") if error else None


class _Worker:
    """One process.

    Attributes:
        item: the item that it works on, or None.
        is_ready: whether it has started completely.
    """

    def __init__(self, job: Job):
        self.item: Any = None
        self.is_ready = False
        with _starting():
            context = _context()
            self.connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_work,
                args=(theirs, job, SECONDS, MEMORY_BYTES, dict(os.environ)),
                daemon=True,
            )
            self._process.start()
            theirs.close()  # so that the connection ends when the process does

    @property
    def is_idle(self) -> bool:
        """Whether it can take an item."""
        return self.is_ready and self.item is None

    def give(self, function: Callable, waiting: collections.deque) -> None:
        """Give it the first of the waiting items."""
        with contextlib.suppress(OSError):  # it has ended, as `receive` will find
            self.connection.send((function, waiting[0]))
            self.item = waiting.popleft()

    def receive(self) -> Exception | None:
        """Return what its task raised, or None; raise EOFError or OSError if it has ended."""
        error = self.connection.recv()
        self.is_ready, self.item = True, None
        return error

    def end(self) -> int:
        """End the process, if it is alive, and return its exit status."""
        self.connection.close()
        if self.item is None:
            self._process.join(_GRACE_SECONDS)
        self._process.kill()  # it may be deaf to other signals; its files are whole or absent
        self._process.join()
        return self._process.exitcode


def _wait(workers: list[_Worker]) -> list[_Worker]:
    """Return the workers that have answered or ended, as soon as there are any."""
    ready = set(multiprocessing.connection.wait([worker.connection for worker in workers]))
    return [worker for worker in workers if worker.connection in ready]


def _context() -> multiprocessing.context.BaseContext:
    """Return how processes are started.

    Not by forking this process, because a copy of a process with threads may hang. A server that
    has the modules loaded forks them in milliseconds. Its socket lies in the temporary folder and
    cannot have a long name. If the folder's name is long, each process loads the modules.
    """
    if len(os.fsencode(tempfile.gettempdir())) > _MAX_TEMPORARY_PATH:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


def _explain(status: int) -> LostTask:
    if status == -signal.SIGALRM:
        return LostTask("too slow", f"takes more than {SECONDS} s to decode")
    what = f"signal {-status}" if status < 0 else f"exit status {status}"
    return LostTask("crash", f"the process that decoded it ended ({what})")


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts, and give it `_ENVIRONMENT`.

    The new process would run the caller's script again, as `__mp_main__`. It needs nothing of it,
    so `__main__` is an empty module meanwhile.

    A terminal interrupts the workers too, but the parent ends them, without a traceback of theirs.
    An interrupt of the parent would leave a new process with half its input.
    """
    held: list[bool] = []
    before = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread:  # where Python handles signals, whichever thread they reach
        handler = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
    os.environ.update(_ENVIRONMENT)
    script, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        for name in _ENVIRONMENT:
            os.environ.pop(name)
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if on_main_thread:
            signal.signal(signal.SIGINT, handler)
        if held:  # which also explains any error in the block
            raise KeyboardInterrupt


def _work(
    connection: multiprocessing.connection.Connection,
    job: Job,
    seconds: float,
    memory: int,
    environment: dict[str, str],
) -> None:
    """Run tasks in a process until its connection ends."""
    os.environ.update(environment)  # the server has that of its own start, perhaps without keys
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process, even inside a decoder
    warnings.simplefilter("ignore")  # Pillow's, about metadata; the results say what matters
    # The C libraries below Pillow print complaints. Exceptions travel by the connection.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    job.prepare()
    resource.setrlimit(resource.RLIMIT_DATA, (_private_memory() + memory,) * 2)
    with contextlib.suppress(EOFError, OSError):  # the parent has ended, or needs no more
        connection.send(None)  # ready
        while True:
            function, item = connection.recv()
            error = None
            try:
                function(job, item, lambda: _limited(seconds))
            except Exception as raised:
                error = ExceptionWithTraceback(raised, raised.__traceback__)
            connection.send(error)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End the process if the block takes longer."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _private_memory() -> int:
    """Return the bytes of private memory of this process, as RLIMIT_DATA counts them."""
    with open("/proc/self/statm") as file:  # man 5 proc: the sixth is data and stack, in pages
        return int(file.read().split()[5]) * resource.getpagesize()
