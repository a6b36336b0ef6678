"""Read the members of a zip archive that lies in another one."""

import functools
import re
import shutil
import tempfile
import weakref
import zipfile
import zlib

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.sources.options import DEFAULTS, Options
from tfpipe.sources.source import MAX_RATIO, RATIO_FREE_BYTES
from tfpipe.sources.unpack import remove
from tfpipe.sources.zip import Zip

_BLOCK_BYTES = 2**20
_PATH = re.compile(r"(.+?\.zip)/(.+)", re.IGNORECASE | re.DOTALL)


class InnerZip(Zip):
    """A zip archive in another, such as `all.zip/train.zip`.

    It is copied once to a temporary file in $TMPDIR. Pickled copies share that file. It is removed
    with the source that created it, or when the process ends; a killed process leaves it behind.
    """

    def __init__(self, path: str, options: Options = DEFAULTS, unpacked: str = ""):
        super().__init__(path, options)
        if unpacked:
            self._file = unpacked

    def __reduce__(self):
        return type(self), (self.path, self.options, self._file)

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        match = _PATH.fullmatch(path)
        return bool(match) and Zip.fits(match[1])

    @functools.cached_property
    def _file(self) -> str:
        outer, name = _PATH.fullmatch(self.path).groups()
        unpacked = _unpack(Zip(outer, self.options), name)
        weakref.finalize(self, remove, unpacked)
        if not zipfile.is_zipfile(unpacked):
            raise UserError(f"{self.path} is no zip archive, or was cut: unpack {outer} yourself")
        return unpacked


def _unpack(outer: Zip, name: str) -> str:
    """Copy a member to a temporary file and return its path."""
    archive = zipfile.ZipFile(storage.open_to_read(outer.path))
    entries = dict(zip(outer.entry_names(), archive.infolist(), strict=True))
    info = entries.get(name)
    if info is None:
        there = ", ".join(map(repr, list(entries)[:5]))
        raise UserError(f"{outer.path} has no member {name!r}, but {there}")
    if info.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * info.compress_size):
        raise UserError(
            f"{outer.path}/{name} unpacks to more than {MAX_RATIO} times its size, unlike images:"
            " if you trust it, unpack it yourself"
        )
    with tempfile.NamedTemporaryFile(prefix="tfpipe-", suffix=".zip", delete=False) as target:
        try:
            with archive, archive.open(info) as member:  # checks the CRC at its end
                shutil.copyfileobj(member, target, _BLOCK_BYTES)
            target.flush()  # reports a full disk here
        except BaseException as error:
            remove(target.name)
            if isinstance(error, OSError):
                raise UserError(
                    f"cannot unpack {outer.path}/{name} to {target.name} ({error.strerror}): free"
                    " disk space, or set TMPDIR to a folder on another disk"
                ) from None
            # RuntimeError: encrypted.
            if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)):
                raise UserError(
                    f"{outer.path}/{name} cannot be unpacked ({error}): copy the archive again, or"
                    " unpack it yourself"
                ) from None
            raise
    return target.name
