"""Zip and tar archives for tests, with names and bytes as a test wants them."""

import io
import pathlib
import struct
import tarfile
import warnings
import zipfile
import zlib


def make_zip(path, members):
    """Writes (name or ZipInfo, contents) pairs."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # a repeated name is one of the cases
        for name, data in members:
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    return str(path)


def make_tar(path, members, format=tarfile.GNU_FORMAT):
    """Writes (name or TarInfo, contents) pairs, compressed as the name of the archive says."""
    kind = {".tar": "", ".tgz": "gz"}.get(path.suffix, path.suffix[1:])
    with tarfile.open(path, f"w:{kind}", format=format) as archive:
        for info, data in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_zip(path, names, *, marked=(), repeated=None):
    """Write a zip archive whose names are exactly these bytes; return its path.

    Args:
        names: bytes of each name; the contents are its number.
        marked: numbers of the names that are marked as UTF-8.
        repeated: a name for each number, for the extra field of Info-ZIP.
    """
    holders = [chr(ord("A") + number) * len(name) for number, name in enumerate(names)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, holder in enumerate(holders):
            info = zipfile.ZipInfo(holder)
            if repeated and number in repeated:
                field = struct.pack("<BL", 1, zlib.crc32(names[number])) + repeated[number].encode()
                info.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(info, str(number))
    data = bytearray(file.getvalue())
    for number, (holder, name) in enumerate(zip(holders, names, strict=True)):
        local = data.index(holder.encode())
        central = data.index(holder.encode(), local + 1)
        data[local : local + len(name)] = data[central : central + len(name)] = name
        if number in marked:
            data[local - 30 + 7] |= 8
            data[central - 46 + 9] |= 8
    pathlib.Path(path).write_bytes(data)
    return str(path)


def write_tar(path, names, form):
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as file:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.size = 1
            file.addfile(info, io.BytesIO(b"%d" % number))
    return str(path)
