"""A file that is read in blocks, the next ones requested while one is used.

A request to an object store takes tens of milliseconds, whatever its size up to a megabyte. So a
reader that asks for one block at a time mostly waits.
"""

import concurrent.futures
import functools
import io
import os
from collections.abc import Callable
from typing import Any

# One request for a megabyte costs hardly more than one for a kilobyte.
BLOCK_BYTES = 2**20

# Blocks requested ahead of a file that is read in order: 400 MB/s at a latency of 20 ms.
AHEAD = 8

# Requests at a time, of all files of the process.
_REQUESTS = 32


class ReadAhead(io.RawIOBase):
    """A file for one thread at a time, whose blocks come from a function.

    The next blocks are requested once a block follows the one before. So reading here and there,
    as in an archive, costs no request in vain.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, *, sequential: bool = False
    ) -> None:
        """Request nothing yet.

        Args:
            read: returns the bytes from an offset on, of a number of bytes; called on any thread.
                Raises OSError.
            size: of the file in bytes.
            sequential: request the next blocks from the first one on.
        """
        self._read_range, self._size = read, size
        self._position = 0
        self._last = -1 if sequential else -2  # block that was used last
        self._blocks: dict[int, concurrent.futures.Future[bytes]] = {}

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, also beyond the end; return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset  # may lie beyond the end
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a block; return the number of bytes."""
        if self._position >= self._size:
            return 0
        index, start = divmod(self._position, BLOCK_BYTES)
        data = self._block(index)[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file, and drop the requests that have not begun."""
        for block in self._blocks.values():
            block.cancel()
        self._blocks.clear()
        super().close()

    def _block(self, index: int) -> bytes:
        ahead = AHEAD if index in (self._last, self._last + 1) else 0
        wanted = range(index, min(index + ahead, (self._size - 1) // BLOCK_BYTES) + 1)
        for other in self._blocks.keys() - set(wanted):
            self._blocks.pop(other).cancel()
        for each in wanted if index != self._last else (index,):
            if each not in self._blocks:
                self._blocks[each] = _requests().submit(self._request, each)
        self._last = index
        try:
            return self._blocks[index].result()
        except BaseException:
            del self._blocks[index]  # the next read tries again
            raise

    def _request(self, index: int) -> bytes:
        start = index * BLOCK_BYTES
        return self._read_range(start, min(BLOCK_BYTES, self._size - start))


@functools.cache
def _requests() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_REQUESTS, thread_name_prefix="read-ahead")
