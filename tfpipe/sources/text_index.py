"""Find texts among millions by their hashes: 16 bytes each, where a dict takes 200."""

import bisect
from collections.abc import Iterable, Iterator

import numpy as np


class TextIndex:
    """The places of texts in a sequence. It does not hold the texts."""

    def __init__(self, texts: Iterable[str]):
        hashes = np.fromiter(map(hash, texts), np.int64)
        order = np.argsort(hashes, kind="stable")
        # Single elements of arrays are slow, those of views of memory are not.
        self._hashes, self._order = memoryview(hashes[order]), memoryview(order)

    def candidates(self, text: str) -> list[int]:
        """Return the places that hold a text, in order; seldom also others, so compare the text."""
        wanted = hash(text)
        first = end = bisect.bisect_left(self._hashes, wanted)
        while end < len(self._hashes) and self._hashes[end] == wanted:
            end += 1
        return self._order[first:end].tolist()

    def repeated(self) -> Iterator[int]:
        """Yield the places of all texts that occur twice or more; seldom also others."""
        hashes = np.asarray(self._hashes)
        same = hashes[1:] == hashes[:-1]
        held = np.zeros(len(hashes), bool)
        held[1:] |= same
        held[:-1] |= same
        yield from np.sort(np.asarray(self._order)[held]).tolist()
