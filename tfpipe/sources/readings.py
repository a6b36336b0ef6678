"""Show how labels were read: counts of classes, and the error for labels with two readings."""

from collections.abc import Mapping

from tfpipe.core.errors import UserError
from tfpipe.sources import class_order

_SHOWN = 8  # classes of a line


def describe(counts: Mapping[str, int]) -> str:
    """Return the numbers of images by class, such as "cat 400, dog 400"; "" are unlabelled."""
    named = class_order.order([name for name in counts if name and counts[name]], ())
    text = ", ".join(f"{name} {counts[name]}" for name in named[:_SHOWN])
    if len(named) > _SHOWN:
        rest = sum(counts[name] for name in named[_SHOWN:])
        text += f" and {len(named) - _SHOWN} more classes with {rest}"
    return text + (f" and {counts['']} unlabelled" if counts.get("") else "")


def question(why: str, readings: Mapping[str, Mapping[str, int]]) -> UserError:
    """Return the error for labels that can be read in several ways.

    Args:
        why: what makes them ambiguous.
        readings: the numbers of images by class, for each value of the option `labels`.
    """
    shown = "; ".join(
        f"`labels={mode}` reads {describe(counts)}" for mode, counts in readings.items()
    )
    return UserError(
        f"the labels can be read in two ways, because {why}: {shown}: give one of these, or leave"
        " images out by `exclude`"
    )
