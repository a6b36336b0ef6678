"""Read several sources as one."""

import functools
import hashlib
from collections.abc import Sequence

from tfpipe.sources.source import Source


class JoinedSource(Source):
    """The files of several sources; the name of a file is its path, as `locate` returns it."""

    def __init__(self, sources: Sequence[Source]):
        super().__init__(" and ".join(source.path for source in sources))
        self.sources = tuple(sources)

    def __reduce__(self):
        return type(self), (self.sources,)

    def read(self, name: str) -> bytes:  # noqa: D102
        source, own_name = self._places[name]
        return source.read(own_name)

    def names(self) -> list[str]:  # noqa: D102
        return sorted(self._places)

    @property
    def skipped(self) -> list[tuple[str, str, str]]:  # noqa: D102
        return sorted(
            (each.locate(name), *why) for each in self.sources for name, *why in each.skipped
        )

    def locate(self, name: str) -> str:  # noqa: D102
        return name

    def prepare(self) -> None:  # noqa: D102
        for source in self.sources:
            source.prepare()

    def fingerprint(self) -> str:  # noqa: D102
        parts = [(source.path, source.fingerprint()) for source in self.sources]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @functools.cached_property
    def _places(self) -> dict[str, tuple[Source, str]]:
        """The source of each file, and its name there."""
        return {each.locate(name): (each, name) for each in self.sources for name in each.names()}
