"""Where answers are worse than elsewhere: the measures of small, dark or oddly shaped images.

Numbers are cut at the quartiles of the images that are measured, so that a slice has about a
quarter of them; words make a slice each. To add an attribute, register it here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfpipe.core.registry import Registry
from tfpipe.evaluation import bootstrap
from tfpipe.evaluation.measures import Answers, measured, measures

MOST = 10  # slices of words; the others, which have the fewest images, are one more


class Images(NamedTuple):
    """What is known of the images that were measured.

    Attributes:
        name: str [n], path relative to the source.
        height: in pixels, int [n].
        width: in pixels, int [n].
        brightness: mean luma, 0..255, float [n].
    """

    name: np.ndarray
    height: np.ndarray
    width: np.ndarray
    brightness: np.ndarray


@dataclasses.dataclass(frozen=True)
class Attribute:
    """What images are told apart by.

    Attributes:
        title: in tables, with its unit if it has one.
        of: from images to numbers or words [n].
        digits: of its numbers behind the point.
    """

    title: str
    of: Callable[[Images], np.ndarray]
    digits: int = 0


attributes: Registry[Attribute] = Registry("attribute of images")
attributes.add(
    "size", Attribute("shorter side, px", lambda each: np.minimum(each.height, each.width))
)
attributes.add("aspect", Attribute("width : height", lambda each: each.width / each.height, 2))
attributes.add("brightness", Attribute("mean luma", lambda each: each.brightness, 1))
# The records know of an image's source only its path in there.
attributes.add(
    "source",
    Attribute("folder", lambda each: np.array([n.rpartition("/")[0] or "." for n in each.name])),
)


def slices(
    answers: Answers, images: Images, *, rounds: int = bootstrap.ROUNDS
) -> list[dict[str, Any]]:
    """Returns the measures of each slice.

    Args:
        answers: for n > 0 images.
        images: the same ones.
        rounds: of the bootstrap.

    Returns:
        For each slice "by", the attribute; "from" and "to", its lowest and highest value there, or
        "value", the word; "n"; every measure; "log_loss_interval", its 95 % bounds; "worse",
        whether these lie wholly above the log loss of all images (of forty slices that are like
        the rest, about one does); and "reasons" of what is None, by name.
    """
    overall = measures["log_loss"].value(answers)
    found = []
    for name in attributes:
        values = attributes[name].of(images)
        parts = _words(values) if values.dtype.kind in "UO" else _quartiles(values)
        for described, chosen in parts:
            found.append({"by": name, **described, **_measured(answers[chosen], overall, rounds)})
    return found


def _measured(answers: Answers, overall: float, rounds: int) -> dict[str, Any]:
    values, reasons = measured(answers)
    interval = None
    if len(answers) >= bootstrap.LEAST and rounds:
        statistics = {"log_loss": measures["log_loss"].of(answers)}
        samples = bootstrap.resampled(statistics, len(answers), rounds=rounds)
        interval = bootstrap.interval(samples["log_loss"])
    else:
        reasons["log_loss_interval"] = f"needs {bootstrap.LEAST} images"
    worse = interval is not None and interval[0] > overall
    return {
        "n": len(answers),
        **values,
        "log_loss_interval": interval,
        "worse": worse,
        "reasons": reasons,
    }


def _quartiles(values: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Returns a description of each quartile and its indices; equal values stay together."""
    cuts = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(cuts, values, side="right")
    parts = [np.flatnonzero(place == index) for index in range(len(cuts) + 1)]
    return [
        ({"from": float(values[part].min()), "to": float(values[part].max())}, part)
        for part in parts
        if len(part)
    ]


def _words(values: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Returns a description of each word, from the most frequent on, and its indices."""
    words, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = [({"value": str(words[i])}, np.flatnonzero(place == i)) for i in order[:MOST]]
    if len(others := order[MOST:]):
        parts.append(({"value": f"{len(others):,} others"}, np.flatnonzero(np.isin(place, others))))
    return parts
