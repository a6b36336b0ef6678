"""Normalize the names of classes, whatever source they come from."""

import unicodedata

from tfpipe.core.errors import UserError

_MAX_LENGTH = 200  # characters


def normalize(name: str, where: str) -> str:
    """Return the name of a class in Unicode's form NFC, without surrounding blanks.

    macOS decomposes accents and Linux does not; NFC makes both one class.

    Args:
        name: as the source has it; bytes that are not UTF-8 are surrogates, as in `os.fsdecode`.
        where: the file, folder or line that has it, for a message.

    Raises:
        UserError: the name is empty, too long, unprintable, or bytes that are not UTF-8.
    """
    clean = unicodedata.normalize("NFC", name).strip()
    if clean and clean.isprintable() and len(clean) <= _MAX_LENGTH:
        return clean
    allowed = f"1 to {_MAX_LENGTH} printable characters, such as 'cat'"
    if not clean:
        raise UserError(f"{where}: the name of the class is empty: give it {allowed}")
    surrogates = [character for character in clean if "\ud800" <= character <= "\udfff"]
    if surrogates and min(surrogates) >= "\udc80" and max(surrogates) <= "\udcff":
        shown = repr(clean.encode("utf-8", "surrogateescape"))[1:]  # b'caf\xe9' without the b
        raise UserError(
            f"{where}: the class name {shown} is not UTF-8: rename the folder, or for an archive"
            " give the encoding of its names, such as `name_encoding=latin-1`"
        )
    why = f"has {len(clean)} characters" if clean.isprintable() else "cannot be printed"
    raise UserError(f"{where}: the class name {clean[:40]!r} {why}: rename it to {allowed}")
