"""The flags of every command that reads sources."""

import dataclasses

from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.sources import record_keys


@dataclasses.dataclass(frozen=True)
class Options:
    """How sources are read."""

    path_column: str = option(
        "the column of a list that names the files; empty to find it by its name and values",
        "",
        group="How sources are read",
    )
    name_encoding: str = option(
        "the encoding of the names in zip and tar archives where they are not UTF-8, such as gbk,"
        " shift_jis or cp866; empty for cp437 in a zip archive",
        "",
    )
    record_keys: str = option(
        "the keys of TFRecords or columns of Parquet files that other programs wrote, as in"
        " image:image_raw,label:class; by default the known ones",
        "",
    )
    follow_links: bool = option(
        "read what symbolic links in folders lead to, each file once; else links are counted", False
    )


DEFAULTS = Options()


def check(options: Options) -> None:
    """Raise UserError if an option has a wrong value."""
    record_keys.parse(options.record_keys)
    if not options.name_encoding:
        return
    try:
        is_fit = "a/".encode(options.name_encoding) == b"a/"  # as zip and tar archives need it
    except (LookupError, UnicodeError):
        is_fit = False
    if not is_fit:
        raise UserError(
            f"`name_encoding={options.name_encoding}` is no known encoding of names: give one"
            " such as gbk, big5, shift_jis, euc_kr, cp866 or latin-1",
            status=2,
        )
