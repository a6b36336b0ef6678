"""Decode the names in an archive that does not say how they are encoded."""

from collections.abc import Iterable, Sequence

from tfpipe.core.errors import UserError

_SHOWN = 5  # names in a message


def decode(raw: Sequence[bytes], encoding: str, path: str) -> list[str]:
    """Return names in the encoding that a person gives.

    Args:
        raw: the names.
        encoding: the option `name_encoding`.
        path: of the archive, for the message.

    Raises:
        UserError: a name is not in this encoding.
    """
    try:
        return [name.decode(encoding) for name in raw]
    except UnicodeDecodeError as error:
        raise UserError(
            f"`name_encoding={encoding}`: {path} has the name {_escaped(error.object)}, which is"
            f" not {encoding}: give another encoding"
        ) from None


def is_utf8(raw: Iterable[bytes]) -> bool:
    """Return whether all names are UTF-8; some names in GBK alone are valid UTF-8 too."""
    try:
        for name in raw:
            name.decode()
    except UnicodeDecodeError:
        return False
    return True


def describe(names: Sequence[str]) -> str:
    """Return some names that are not ASCII, for a message: folders if there are any."""
    parts = [name.rstrip("/").split("/") for name in names if not name.isascii()]
    folders = [part for each in parts for part in each[:-1] if not part.isascii()]
    some = list(dict.fromkeys(folders or (each[-1] for each in parts)))
    more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
    return ", ".join(map(repr, some[:_SHOWN])) + more


def _escaped(name: object) -> str:
    return repr(name)[1:]  # b'caf\xe9' without the b
