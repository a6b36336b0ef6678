"""Choose records by a text, in the words of TensorFlow Datasets.

    train    train+val    all    train[:10%]    train[100:]    train[:50%]+train[75%:]

A slice counts the records of its split in the order of the shards, in which a build shuffles them.
So the first tenth is a random tenth.
"""

import fractions
import re

from tfpipe.core.errors import UserError
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.subset import Subset

_PART = re.compile(r"(?P<split>[^\[\]+]+?)\s*(\[(?P<start>[^:\]]*):(?P<stop>[^:\]]*)\])?")
_BOUND = re.compile(r"(-?\d+(?:\.\d+)?)%|(-?\d+)", re.ASCII)
_FORMS = "give a split, several as train+val, or slices as train[:10%] or train[100:200]"


def parse(text: str, manifest: Manifest) -> Subset:
    """Return the records that a text names.

    A percentage is rounded to whole records, so train[:10%] and train[10%:] are all of train.

    Raises:
        UserError: the text has another form, or names an unknown split, no record, or one twice.
    """
    parts = [_PART.fullmatch(part.strip()) for part in text.split("+")]
    if not all(parts):
        raise UserError(f"`split={text}` cannot be read: {_FORMS}", status=2)
    names = tuple(part["split"] for part in parts)
    if all(part["start"] is None for part in parts):
        subset = Subset(manifest, names)
    else:
        if ALL_SPLITS in names:
            raise UserError(f"`split={text}`: {ALL_SPLITS} has no slices: {_FORMS}", status=2)
        slices = tuple(
            _slice(part, manifest.count(name), text)
            for name, part in zip(names, parts, strict=True)
        )
        subset = Subset(manifest, names, slices=slices)
    _check_once(subset, text)
    if not subset.count:
        raise UserError(f"`split={text}` has no record of {manifest.folder}: {_FORMS}", status=2)
    return subset


def _slice(part: re.Match, count: int, text: str) -> tuple[int, int]:
    start = _bound(part["start"] or "0", count, text)
    return start, max(start, _bound(part["stop"] or str(count), count, text))


def _bound(bound: str, count: int, text: str) -> int:
    match = _BOUND.fullmatch(bound.strip())
    if not match:
        raise UserError(f"`split={text}`: {bound!r} is no number of records and no percentage: "
                        f"{_FORMS}", status=2)  # fmt: skip
    if match[1]:
        share = fractions.Fraction(match[1])
        if abs(share) > 100:
            raise UserError(f"`split={text}`: {bound} is more than 100%: {_FORMS}", status=2)
        place = (2 * count * share + 100) // 200  # the nearest whole number
    else:
        place = int(match[2])
    return int(max(0, place + count if bound.strip().startswith("-") else min(place, count)))


def _check_once(subset: Subset, text: str) -> None:
    """Raise UserError if a record is named twice."""
    if not subset.slices:
        if len(set(subset.splits)) < len(subset.splits) or (
            ALL_SPLITS in subset.splits and len(subset.splits) > 1
        ):
            raise UserError(f"`split={text}` names a split twice: {_FORMS}", status=2)
        return
    ends: dict[str, int] = {}
    for split, (start, stop) in sorted(zip(subset.splits, subset.slices, strict=True)):
        if start < ends.get(split, 0):
            raise UserError(
                f"`split={text}` has records of {split} twice: give slices that do not overlap",
                status=2,
            )
        ends[split] = max(stop, ends.get(split, 0))
