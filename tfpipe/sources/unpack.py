"""Decompress a file once, to a temporary file that has places to seek to."""

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator

from tfpipe.core.errors import UserError
from tfpipe.sources.source import MAX_RATIO, RATIO_FREE_BYTES

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}

_XZ_MEMORY = 256 * 2**20  # `xz -9` needs 65 MB to unpack; a hostile file asks for gigabytes

_BLOCK_BYTES = 2**20


def compression_of(head: bytes) -> str:
    """Return the compression of a file by its first bytes; "" for none."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def unpack(path: str, compression: str, kind: str) -> str:
    """Decompress a file to a temporary one of at most `MAX_RATIO` times its size.

    Args:
        path: of a local file.
        compression: from `compression_of`, or "zlib".
        kind: of the contents, for messages, such as "tar archive".

    Returns:
        The path of the temporary file, which the caller removes.

    Raises:
        UserError: the archive is damaged or a bomb, or the disk is full.
    """
    most = max(RATIO_FREE_BYTES, MAX_RATIO * os.stat(path).st_size)
    with tempfile.NamedTemporaryFile(prefix="tfpipe-", delete=False) as target:
        try:
            with contextlib.closing(_decompressed(path, compression)) as blocks:
                left = most
                for block in blocks:
                    left -= len(block)
                    if left < 0:
                        raise UserError(
                            f"{path} unpacks to more than {MAX_RATIO} times its size, unlike"
                            " images: if you trust it, unpack it yourself and name the folder"
                        )
                    _write(target, block, path)
        except BaseException as error:
            remove(target.name)
            if isinstance(error, (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)):
                raise UserError(f"{path} is a damaged {kind} ({error}): copy it again") from None
            raise
    return target.name


def _write(target, block: bytes, path: str) -> None:
    try:
        target.write(block)
        target.flush()  # reports a full disk here
    except OSError as error:
        raise UserError(
            f"cannot unpack {path} to {target.name} ({error.strerror}): free disk space, or set"
            " TMPDIR to a folder on another disk"
        ) from None


def _decompressed(path: str, compression: str) -> Iterator[bytes]:
    """Yield the contents of a compressed file in blocks of at most `_BLOCK_BYTES`."""
    if compression == "gzip":
        with gzip.open(path) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        return
    if compression == "zlib":
        decoder = zlib.decompressobj()
        with open(path, "rb") as file:
            while data := decoder.unconsumed_tail or file.read(_BLOCK_BYTES):
                yield decoder.decompress(data, _BLOCK_BYTES)
        if not decoder.eof:
            raise EOFError("it ends before its compressed contents do")
        return
    # lzma.open has no limit for the memory that a file may ask for.
    start = {
        "bzip2": bz2.BZ2Decompressor,
        "xz": functools.partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY),
    }[compression]
    with open(path, "rb") as file:
        data = file.read(_BLOCK_BYTES)
        while data:  # parallel compressors write several streams
            decoder = start()
            while not decoder.eof:
                if decoder.needs_input and not data:
                    data = file.read(_BLOCK_BYTES)
                    if not data:
                        raise EOFError("it ends before its compressed contents do")
                yield decoder.decompress(data, _BLOCK_BYTES)
                data = b""
            data = decoder.unused_data.lstrip(b"\0") or file.read(_BLOCK_BYTES)


def remove(path: str) -> None:
    """Remove a temporary file, if it is still there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
