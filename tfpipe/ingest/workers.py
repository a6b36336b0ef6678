"""Processes that look into image files, several at a time."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from tfpipe.errors import UserError
from tfpipe.ingest import scan
from tfpipe.ingest.rejects import Reject
from tfpipe.ingest.sources import Source

# Files in one task of a worker: enough to hide the cost of a task, and a progress bar that moves.
_CHUNK = 16


class Item(NamedTuple):
    """One file to look into: the index of its source, and its name there."""

    source: int
    name: str


class Found(NamedTuple):
    """A good image, described without its pixels.

    Attributes:
        item: where it is.
        image: its description; `encoded` is empty.
        size: bytes that `encoded` had.
    """

    item: Item
    image: scan.Image
    size: int


def inspect_all(
    sources: Sequence[Source],
    items: Sequence[Item],
    *,
    workers: int,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[Found | Reject]:
    """Looks into many files.

    Args:
        sources: what the items' indices refer to; each process opens them anew.
        items: the files.
        workers: the number of processes.
        advance: called with the number of further files that are done.

    Yields:
        One description for each item, in their order.

    Raises:
        UserError: a process died, as when it is out of memory.
    """
    chunks = collections.deque(items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))
    pool = concurrent.futures.ProcessPoolExecutor(
        max_workers=max(1, min(workers, len(chunks))),
        # Not forked: a copy of a process that has threads (TensorFlow, progress bar) may hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(tuple(sources),),
    )
    running: collections.deque = collections.deque()
    try:
        while chunks or running:
            # A bounded queue, so that the descriptions of a million images do not pile up in it.
            while chunks and len(running) < 4 * workers:
                chunk = chunks.popleft()
                with _interrupts_held():
                    running.append((chunk, pool.submit(_inspect_chunk, chunk)))
            chunk, future = running.popleft()
            outcomes = future.result()
            advance(len(chunk))
            yield from outcomes
    except BrokenProcessPool:
        where = sources[chunk[0].source].locate(chunk[0].name)
        raise UserError(
            f"a worker process died, perhaps for lack of memory, at or soon after {where!r}:"
            " use fewer --workers, or remove the file that is at fault"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


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
    if held:
        raise KeyboardInterrupt


_sources: tuple[Source, ...] = ()  # of this process


def _start(sources: tuple[Source, ...]) -> None:
    global _sources
    _sources = sources
    warnings.simplefilter("ignore")  # Pillow's, about metadata; what matters is in the result
    # The C libraries below Pillow print what they think of damaged files. An exception of ours
    # does not need the stream: it travels to the parent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _inspect_chunk(items: Sequence[Item]) -> list[Found | Reject]:
    return [_inspect(item) for item in items]


def _inspect(item: Item) -> Found | Reject:
    source = _sources[item.source]
    try:
        image = scan.inspect(source.read(item.name))
    except scan.Rejected as rejected:
        return Reject(source.locate(item.name), rejected.reason, rejected.detail)
    return Found(item, dataclasses.replace(image, encoded=b""), len(image.encoded))
