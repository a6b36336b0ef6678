"""Assign images to splits and folds by their contents, whatever their order.

Splits that folders or lists give are kept; the rest of this is about the other images.

Images that must stay together (equal contents, one patient) form a unit. The sha256 of the seed and
of the unit's smallest content key, read as a number in [0, 1), decides: the splits partition that
interval. So an image keeps its split when others come or go.

Chance alone would put 160 +- 11 of a class of 800 into a fifth. If a split's share of a class is
off its fraction by more than 2 percentage points, and by a whole image, the units with the numbers
nearest to the split's interval move. And a class with at least as many units as there are splits
has one in each; any class has one in the training split.

Near-duplicates stay together too, unless a class would then be far from its share of a split, or
absent from training. Then the largest clusters of that class are broken.

So an image may still change its split if its class would otherwise be split badly. When two classes
of 800 at 0.8/0.2 grow by a tenth, 0.7 of the 1,600 images do so on average of 200 seeds, at most
12, and none in 157 seeds.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpipe.building import stratify
from tfpipe.core.errors import UserError
from tfpipe.records.manifest import ALL_SPLITS
from tfpipe.sources import split_name
from tfpipe.sources.split_name import TEST, TRAIN, VAL

_NAME = re.compile(r"[a-z0-9_]+")
_HOW = "write names and fractions that sum to 1, as in `splits=train:0.8,val:0.2`"

# Keeps the given splits.
AUTO = "auto"

# What AUTO means where no split but train is given: of few images, or with folds; and of at least
# LARGE images, where a tenth is enough to choose the best epoch, and another to measure the result.
DEFAULT, DEFAULT_LARGE = "train:0.8,val:0.2", "train:0.8,val:0.1,test:0.1"
LARGE = 1_000

MAX_FOLDS = 100


class SplitPlan(NamedTuple):
    """The splits of a data set.

    Attributes:
        names: in their order.
        fractions: of the images that no given split holds out, by the name of the split.
        training: the split to train on; "" if there is none.
        keeps: whether the splits that folders or lists give are kept.
        optional: splits that are left out if they would be empty.
        text: the value of the option `splits` that says the same, whatever it was.
    """

    names: tuple[str, ...]
    fractions: dict[str, float]
    training: str
    keeps: bool
    optional: tuple[str, ...]
    text: str


def plan(text: str, given: Mapping[str, int], folds: int = 0) -> SplitPlan:
    """Decide the splits.

    A given split is kept. If there is none of the name val, a fifth of train becomes val. If there
    is none but train, of many images, a tenth becomes val and a tenth test. With folds, each image
    is judged by a run that was not trained on it, so they need no test split.

    Args:
        text: the option `splits`: "auto", or names and fractions, which ignore the given splits.
        given: the number of images by given split; "" for those without one, which join train.
        folds: the number of folds; 0 for none.

    Raises:
        UserError: the text has another form.
    """
    if text != AUTO:
        fractions = parse(text)
        return SplitPlan(tuple(fractions), fractions, training(fractions), False, (), text)
    there = {split or TRAIN for split, images in given.items() if images}
    if there <= {TRAIN}:
        large = not folds and sum(given.values()) >= LARGE
        return plan(DEFAULT_LARGE if large else DEFAULT, {})._replace(optional=(VAL, TEST))
    fractions = parse(DEFAULT) if VAL not in there else {TRAIN: 1.0}
    if TRAIN not in there:
        fractions = {}
    names = tuple(name for name in split_name.ALL if name in there or name in fractions)
    optional = () if VAL in there else (VAL,)
    return SplitPlan(names, fractions, TRAIN if TRAIN in names else "", True, optional, AUTO)


def describe(plan: SplitPlan, given: Mapping[str, int], origin: str) -> str:
    """Return one line about the given splits, or a test split by default; "" if there is none.

    Args:
        plan: from `plan`.
        given: as for `plan`.
        origin: who gives the splits, such as "the folders say".
    """
    counts = {name: given[name] for name in split_name.ALL if given.get(name)}
    if {*counts} <= {TRAIN} and plan.text == DEFAULT_LARGE and plan.optional:
        return (
            f"splits: {DEFAULT_LARGE}, as there are {LARGE:,} images or more; --splits={DEFAULT}"
            " makes no test split"
        )
    if not counts:
        return ""
    said = ", ".join(f"{name} {images}" for name, images in counts.items())
    if given.get(""):
        said += f", none {given['']}"
    if {*counts} == {TRAIN} and plan.text != DEFAULT:
        return ""
    if {*counts} != {TRAIN} and not plan.keeps:
        return f"splits: {plan.text} as asked, not as {origin} ({said}); --splits={AUTO} keeps that"
    if given.get(""):
        said += "; those without a split join train"
    if VAL in plan.fractions and VAL not in counts:
        said += "; a fifth of train becomes val"
    if not plan.training:
        said += f"; there is none to train on; --splits={DEFAULT} divides the images anew"
    return f"splits: as {origin}: {said}"


def check(text: str) -> None:
    """Raise UserError if the option `splits` has a wrong form."""
    if text != AUTO:
        parse(text)


def parse(text: str) -> dict[str, float]:
    """Parse "train:0.8,val:0.2" into the fraction of each split, in the order given.

    Raises:
        UserError: the text has another form, or the fractions are not above 0 with the sum 1.
    """
    splits: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if not _NAME.fullmatch(name) or name == ALL_SPLITS:
            raise UserError(
                f"`splits={text}`: {name!r} cannot name a split (a-z, 0-9 and _, but not"
                f" {ALL_SPLITS!r}); {_HOW}"
            )
        if name in splits:
            raise UserError(f"`splits={text}` names {name!r} twice; {_HOW}")
        try:
            splits[name] = float(number)
        except ValueError:
            raise UserError(
                f"`splits={text}`: {number!r} is not a fraction for {name!r}; {_HOW}"
            ) from None
        if not 0 < splits[name] <= 1:
            raise UserError(f"`splits={text}`: the fraction of {name!r} is not in (0, 1]; {_HOW}")
    total = sum(splits.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"`splits={text}`: the fractions sum to {total:g}; {_HOW}")
    return splits


def training(names: Iterable[str]) -> str:
    """Return the split to train on: "train", or else the first."""
    names = list(names)
    return "train" if "train" in names else names[0]


def assign(
    keys: Sequence[str],
    labels: Sequence[str],
    fractions: dict[str, float],
    seed: int,
    groups: Sequence[Hashable] | None = None,
    near: Sequence[Hashable] | None = None,
    *,
    given: Sequence[str] | None = None,
) -> list[str]:
    """Assign images to splits.

    Large units, or units of many classes, can make the rule above impossible. Then it is kept as
    nearly as moves of single units allow.

    Args:
        keys: hex digests of the images' contents; equal ones stay together.
        labels: their labels, one for each, as of `label_set`.
        fractions: of the images, by the name of the split, as from `parse`.
        seed: of the partition.
        groups: the group of each image; a group stays together; None or "" for none.
            `stratify.join` combines several groupings.
        near: the cluster of near-duplicates of each image; None for none.
        given: the given split of each image; "train" or "" for those to be divided, even if they
            belong to a group that is held out. None divides all.

    Returns:
        One split name for each image.
    """
    names, found = list(fractions), list(given or [TRAIN] * len(keys))
    free = np.flatnonzero([split in (TRAIN, "") for split in found])
    if not len(free):
        return found
    parts = stratify.partition(
        *_among(free, keys, labels),
        list(fractions.values()),
        f"{seed}:",
        *_among(free, groups, near),
        training=names.index(training(names)),
    )
    for i, part in zip(free, parts, strict=True):
        found[i] = names[part]
    return found


def check_folds(k: int) -> None:
    """Raise UserError if `k` is no number of folds."""
    if k != 0 and not 2 <= k <= MAX_FOLDS:
        raise UserError(
            f"`folds={k}`: give 2 to {MAX_FOLDS} to cross-validate, or 0 for no folds", status=2
        )


def folds(
    keys: Sequence[str],
    labels: Sequence[str],
    k: int,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    near: Sequence[Hashable] | None = None,
    *,
    split_of: Sequence[str] | None = None,
) -> list[int]:
    """Assign images to `k` folds of equal size, by the rule of `assign` but independent of it.

    A class with two units or more is in two folds or more, so that each fold's training has it.

    Args:
        keys: as for `assign`, like `labels`, `seed`, `groups` and `near`.
        labels: their labels.
        k: the number of folds; 0 for none.
        seed: of the partition.
        groups: the group of each image.
        near: the cluster of each image.
        split_of: the split of each image; those of "test" are in no fold.

    Returns:
        A fold in 0..k-1 for each image, or -1 for none.

    Raises:
        UserError: `k` is no number of folds.
    """
    check_folds(k)
    found = [-1] * len(keys)
    if k == 0:
        return found
    free = np.flatnonzero([split != TEST for split in split_of or [""] * len(keys)])
    parts = stratify.partition(
        *_among(free, keys, labels), [1 / k] * k, f"fold:{seed}:", *_among(free, groups, near)
    )
    for i, part in zip(free, parts, strict=True):
        found[i] = part
    return found


def _among(indices: np.ndarray, *columns: Sequence[Any] | None) -> list[Sequence[Any] | None]:
    """Return some elements of each column; None stays None, and an array an array."""
    return [
        column
        if column is None or len(indices) == len(column)
        else column[indices]
        if isinstance(column, np.ndarray)
        else [column[i] for i in indices]
        for column in columns
    ]
