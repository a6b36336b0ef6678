"""Recognize the splits that people name in folders, archives and lists: `train_images`, `val`."""

import functools
import re

from tfpipe.sources.member import ARCHIVE_SUFFIXES

TRAIN, VAL, TEST = "train", "val", "test"

# In the order in which a data set lists them.
ALL = (TRAIN, VAL, TEST)

_SUFFIXES = (
    *ARCHIVE_SUFFIXES,
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".tfrecord", ".tfrecords", ".parquet"),
)

_FILLER = r"sets?|images?|imgs?|pictures|photos|data|splits?|folder|seg|jpe?g|png|\d|[\W_]"
_NAME = re.compile(
    rf"(?:{_FILLER})*(?:(?P<train>train(?:ing)?)|(?P<val>val(?:id(?:ation)?)?|dev(?:elopment)?)"
    rf"|(?P<test>test(?:ing)?))(?:{_FILLER})*"
)


@functools.lru_cache(2**16)
def recognize(name: str) -> str:
    """Return "train", "val" or "test" if a name means one of them, else "".

    Case does not matter, nor do endings of files, numbers and words such as "set" and "images":
    `Training`, `test1.zip`, `seg_train`, `validation_set` and `dev` all name a split.

    Args:
        name: of a folder or a file, without its parents; or the cell of a list.
    """
    match = _NAME.fullmatch(without_suffix(name.strip().lower()))
    return next((split for split in ALL if match[split]), "") if match else ""


def without_suffix(name: str) -> str:
    """Return the name of an archive, a list or records without its ending: "a" for "a.tar.gz"."""
    while name.lower().endswith(_SUFFIXES):
        name = name[: name.rindex(".")]
    return name
