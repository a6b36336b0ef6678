"""Keep many texts in one block of memory."""

import array
from collections.abc import Iterable, Iterator, Sequence


class PackedTexts(Sequence[str]):
    """Texts in one block of memory: each takes its characters and 8 bytes."""

    def __init__(self, texts: Iterable[str] = ()):
        self._data, self._ends = bytearray(), array.array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text; that of a file name may be no valid Unicode."""
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        data = self._data[self._ends[index] : self._ends[index + 1]]
        return data.decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        starts, ends = iter(self._ends), iter(self._ends)
        next(ends)
        for start, end in zip(starts, ends, strict=False):
            yield self._data[start:end].decode("utf-8", "surrogatepass")
