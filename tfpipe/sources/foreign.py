"""Say what a file is that is neither a source nor a list, and what to do about it."""

from tfpipe.core import storage

_HEAD_BYTES = 512

_UNPACK = "unpack it and name the folder"
_AGAIN = "download or copy it again"

# First bytes, what they begin, and what to do.
_MAGIC = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not supported", f"{_UNPACK} (7z x)"),
    (b"Rar!\x1a\x07", "a rar archive, which is not supported", f"{_UNPACK} (unrar x)"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd, which is not supported", f"{_UNPACK} (tar --zstd)"),
    (b"\x04\x22\x4d\x18", "compressed by lz4, which is not supported", f"{_UNPACK} (lz4 -d)"),
    (b"\x1f\x8b", "compressed by gzip", "uncompress it (gunzip)"),
    (b"LZIP", "compressed by lzip, which is not supported", f"{_UNPACK} (lzip -d)"),
    (b"\x1f\x9d", "compressed by compress, which is not supported", f"{_UNPACK} (uncompress)"),
    (b"MSCF", "a cabinet archive, which is not supported", _UNPACK),
    (
        b"PK\7\x08",
        "one part of a divided zip archive",
        "join the parts (zip -s 0) and name the whole",
    ),
    (b"PK\3\4", "a zip archive that was cut or damaged: its end is missing", _AGAIN),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"\xff\xd8\xff", "one JPEG image", "name its folder"),
    (b"\x89PNG", "one PNG image", "name its folder"),
    (b"GIF8", "one GIF image", "name its folder"),
    (b"%PDF", "a PDF", "name the images themselves"),
    (b"\x89HDF", "an HDF5 file, which is not supported", "write its images to files"),
    (b"\x93NUMPY", "a NumPy array, which is not supported", "write its images to files"),
    (b"SQLite format 3", "an SQLite database, which is not supported", "write its images to files"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")


def describe(path: str) -> str:
    """Return what a file is and what to do, such as "a rar archive, ...: unpack it"; "" if unknown.

    Args:
        path: path or URL of a file.
    """
    try:
        storage.size(path)  # refuses a pipe, which would block
        with storage.open_to_read(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    if not head:
        return f"an empty file: {_AGAIN}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return (
            "a web page, such as a notice or a login that came in place of the file: open it in a"
            " browser, and download the file itself"
        )
    found = next(((what, advice) for magic, what, advice in _MAGIC if head.startswith(magic)), None)
    return ": ".join(found) if found else ""
