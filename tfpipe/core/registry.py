"""Name to object tables that fail loudly."""

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from tfpipe.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named things of one kind, filled by a decorator.

    A duplicate name is a programming error (ValueError); an unknown one is the user's
    (UserError) and lists the known names.
    """

    def __init__(self, kind: str):
        """`kind` names one entry in messages, as in "unknown augmentation 'x'"."""
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`."""

        def enter(entry: T) -> T:
            self.add(name, entry)
            return entry

        return enter

    def add(self, name: str, entry: T) -> None:
        """Register `entry` under `name`; raises ValueError if the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(f"unknown {self.kind} {name!r}; {hint}known: {', '.join(self)}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
