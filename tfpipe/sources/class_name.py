"""Normalize the names of classes, whatever source they come from."""

import unicodedata

from tfpipe.core.errors import UserError

_MAX_LENGTH = 200  # characters


def normalize(name: str, where: str) -> str:
    """Return the name of a class in Unicode's form NFC, without surrounding blanks.

    macOS decomposes accents and Linux does not; NFC makes both one class.

    Args:
        name: as the source has it.
        where: the file, folder or line that has it, for a message.

    Raises:
        UserError: the name is empty, too long, unprintable, or bytes that are not UTF-8.
    """
    clean = unicodedata.normalize("NFC", name).strip()
    if clean and clean.isprintable() and len(clean) <= _MAX_LENGTH:
        return clean
    what = f"{clean[:40]!r} cannot name a class" if clean else "the name of the class is empty"
    raise UserError(
        f"{where}: {what}: give 1 to {_MAX_LENGTH} printable characters of UTF-8, such as 'cat'"
    )
