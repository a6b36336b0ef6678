"""Remember which shards were verified, so that each is hashed once and not at every start.

The list is one file of the user, `~/.cache/tfpipe/verified.json` (`$XDG_CACHE_HOME`, or
`$TFPIPE_CACHE` for another folder, empty for none):

    {"/data/pets/train-00000-of-00002.tfrecord": [SIZE, MODIFIED_NS, SHA256], ...}

A shard with another size, time or digest is hashed again. Records have checksums of their own,
which every read checks.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable

from tfpipe.core import storage
from tfpipe.core.errors import ResumableError
from tfpipe.records.manifest import Manifest, Shard

_FILE = "verified.json"
_MOST = 10_000  # shards; the oldest are forgotten

# What identifies the contents of a shard: size in bytes, time in ns, and the manifest's digest.
State = tuple[int, int, str]


class VerifiedShards:
    """The shards of data sets that were found whole."""

    def __init__(self):
        folder = os.environ.get("TFPIPE_CACHE")
        if folder is None:
            cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
            folder = os.path.join(cache, "tfpipe")
        self._path = pathlib.Path(folder) / _FILE if folder else None

    def states(self, manifest: Manifest, shards: Iterable[Shard]) -> dict[str, State]:
        """Return the state of each shard by its path; those that cannot be read have none."""
        found = {}
        for shard in shards:
            path = manifest.path_of(shard)
            with contextlib.suppress(OSError, ValueError):  # ValueError: an impossible name
                size, modified = storage.stamp(path)
                if modified:  # 0 where an object store does not say
                    found[path] = size, modified, shard.sha256
        return found

    def known(self, states: dict[str, State]) -> set[str]:
        """Return the paths whose states are remembered."""
        there = self._load()
        return {path for path, state in states.items() if there.get(path) == list(state)}

    def add(self, states: dict[str, State]) -> None:
        """Remember states, if the file can be written."""
        if self._path is None or not states:
            return
        there = {path: state for path, state in self._load().items() if path not in states}
        last = [*there.items(), *states.items()][-_MOST:]
        # Without the file the shards are hashed again, which is only slower.
        with contextlib.suppress(OSError, ResumableError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            storage.write_json(self._path, dict(last))

    def _load(self) -> dict[str, list]:
        try:
            value = json.loads(storage.read_whole(self._path) or b"{}") if self._path else {}
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}
