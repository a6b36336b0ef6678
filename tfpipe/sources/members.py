"""The members of a source, and numbers that change with their contents."""

from collections.abc import Iterator, Mapping, Sequence


class Members(Mapping[str, tuple[int, ...]]):
    """The numbers of each member by its name; as arrays, which take half the memory of tuples."""

    def __init__(self, places: dict[str, int], *columns: Sequence[int]):
        """Take the place of each name in the columns of numbers; all of them may still grow."""
        self.places, self._columns = places, columns

    def __getitem__(self, name: str) -> tuple[int, ...]:
        place = self.places[name]
        return tuple(column[place] for column in self._columns)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
