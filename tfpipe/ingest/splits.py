"""Which split an image falls into: a function of its contents, not of its place in a list."""

import collections
import hashlib
import re
from collections.abc import Sequence

from tfpipe.errors import UserError

_NAME = re.compile(r"[a-z0-9_]+")
_HOW = "write names and fractions that sum to 1, as in --splits=train:0.8,val:0.2"

# Means every split wherever a split is asked for, so that no split may be called so.
ALL = "all"


def parse(text: str) -> dict[str, float]:
    """Parses "train:0.8,val:0.2" into the fraction of each split, in the order given.

    Raises:
        UserError: the text has another form, or the fractions are not above 0 with the sum 1.
    """
    splits: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if not _NAME.fullmatch(name) or name == ALL:
            raise UserError(
                f"--splits={text!r}: {name!r} cannot name a split (a-z, 0-9 and _, but not"
                f" {ALL!r}); {_HOW}"
            )
        if name in splits:
            raise UserError(f"--splits={text!r}: {name!r} is there twice; {_HOW}")
        try:
            splits[name] = float(number)
        except ValueError:
            raise UserError(
                f"--splits={text!r}: {number!r} is not a fraction for {name!r}; {_HOW}"
            ) from None
        if not 0 < splits[name] <= 1:
            raise UserError(f"--splits={text!r}: the fraction of {name!r} is not in (0, 1]; {_HOW}")
    total = sum(splits.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"--splits={text!r}: the fractions sum to {total:g}; {_HOW}")
    return splits


def assign(
    sha256s: Sequence[str], labels: Sequence[str], splits: dict[str, float], seed: int
) -> list[str]:
    """Assigns images to splits.

    The sha256 of the seed and of the image's contents is a number in [0, 1), and the splits
    partition that interval. So an image keeps its split when others come or go, equal contents
    share one, and the order does not matter.

    A class with at least as many distinct images as there are splits has one in every split: where
    chance leaves a split without, the image whose number is nearest to the split's interval moves.

    Args:
        sha256s: hex digests of the images' contents.
        labels: their classes, one for each.
        splits: fractions by name, as from `parse`.
        seed: another seed, another partition.

    Returns:
        One split name for each image.
    """
    number = {sha: _number(sha, seed) for sha in sha256s}
    intervals = _intervals(splits)
    split_of = {sha: _containing(intervals, u) for sha, u in number.items()}

    members = collections.defaultdict(set)  # by class
    classes = collections.defaultdict(set)  # by image: equal contents may bear two labels
    for sha, label in zip(sha256s, labels, strict=True):
        members[label].add(sha)
        classes[sha].add(label)
    held = collections.Counter((c, split_of[sha]) for sha, cs in classes.items() for c in cs)

    def distance(sha: str, split: str) -> float:
        low, high = intervals[split]
        return max(low - number[sha], number[sha] - high)

    for label in sorted(members):
        if len(members[label]) < len(splits):
            continue
        for split in splits:
            if held[label, split]:
                continue
            # A donor must not empty its old split, for none of the classes it belongs to.
            donors = [
                sha
                for sha in members[label]
                if all(held[c, split_of[sha]] > 1 for c in classes[sha])
            ]
            if not donors:  # only where contents are shared between classes
                continue
            moved = min(donors, key=lambda sha, split=split: (distance(sha, split), sha))
            for c in classes[moved]:
                held[c, split_of[moved]] -= 1
                held[c, split] += 1
            split_of[moved] = split
    return [split_of[sha] for sha in sha256s]


def _number(sha256: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _intervals(splits: dict[str, float]) -> dict[str, tuple[float, float]]:
    intervals, low = {}, 0.0
    for name, fraction in splits.items():
        intervals[name] = (low, low + fraction)
        low += fraction
    return intervals


def _containing(intervals: dict[str, tuple[float, float]], u: float) -> str:
    for name, (_, high) in intervals.items():
        if u < high:
            return name
    return name  # the fractions may sum to a hair less than 1
