"""Slices: the metrics of small, dark or oddly shaped images, and of each folder.

Numbers are cut at their quartiles, so a slice has about a quarter of the images. Each word is a
slice. To add an attribute, register it here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfpipe.core.registry import Registry
from tfpipe.evaluation import bootstrap
from tfpipe.evaluation.metrics import LabeledPredictions, metrics, values_of

MOST = 10  # slices of words; all rarer words are one more


@dataclasses.dataclass(frozen=True)
class ImageProperties:
    """Attributes of the evaluated images.

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

    def __getitem__(self, chosen: np.ndarray) -> "ImageProperties":
        """Return some images, by indices or a mask."""
        columns = (self.name, self.height, self.width, self.brightness)
        return ImageProperties(*(column[chosen] for column in columns))


@dataclasses.dataclass(frozen=True)
class Attribute:
    """An attribute that images are sliced by.

    Attributes:
        title: in tables, with its unit if it has one.
        of: from images to numbers or words [n].
        digits: of its numbers after the point.
    """

    title: str
    of: Callable[[ImageProperties], np.ndarray]
    digits: int = 0


attributes: Registry[Attribute] = Registry("attribute of images")
attributes.add(
    "size", Attribute("shorter side, px", lambda each: np.minimum(each.height, each.width))
)
attributes.add("aspect", Attribute("width : height", lambda each: each.width / each.height, 2))
attributes.add("brightness", Attribute("mean luma", lambda each: each.brightness, 1))
# The records have the path of an image within its source, and nothing else of the source.
attributes.add(
    "source",
    Attribute("folder", lambda each: np.array([n.rpartition("/")[0] or "." for n in each.name])),
)


def slices(
    predictions: LabeledPredictions, images: ImageProperties, *, rounds: int = bootstrap.ROUNDS
) -> list[dict[str, Any]]:
    """Return the metrics of each slice.

    Args:
        predictions: of n > 0 images.
        images: the attributes of the same images.
        rounds: of the bootstrap.

    Returns:
        For each slice "by", the attribute; "from" and "to", its lowest and highest value, or
        "value", the word; "n"; every metric; "log_loss_interval", its 95 % bounds; "worse",
        whether both lie above the log loss of all images (by chance, about one slice of forty is);
        and "reasons" for each None, by name.
    """
    overall = metrics["log_loss"].value(predictions)
    found = []
    for name in attributes:
        values = attributes[name].of(images)
        parts = _words(values) if values.dtype.kind in "UO" else _quartiles(values)
        for described, chosen in parts:
            found.append(
                {"by": name, **described, **_metrics(predictions[chosen], overall, rounds)}
            )
    return found


def _metrics(predictions: LabeledPredictions, overall: float, rounds: int) -> dict[str, Any]:
    values, reasons = values_of(predictions)
    interval = None
    if len(predictions) >= bootstrap.LEAST and rounds:
        statistics = {"log_loss": metrics["log_loss"].of(predictions)}
        samples = bootstrap.resampled(statistics, len(predictions), rounds=rounds)
        interval = bootstrap.interval(samples["log_loss"])
    else:
        reasons["log_loss_interval"] = f"needs {bootstrap.LEAST} images"
    worse = interval is not None and interval[0] > overall
    return {
        "n": len(predictions),
        **values,
        "log_loss_interval": interval,
        "worse": worse,
        "reasons": reasons,
    }


def _quartiles(values: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Return each quartile's description and indices; equal values stay together."""
    cuts = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(cuts, values, side="right")
    parts = [np.flatnonzero(place == index) for index in range(len(cuts) + 1)]
    return [
        ({"from": float(values[part].min()), "to": float(values[part].max())}, part)
        for part in parts
        if len(part)
    ]


def _words(values: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Return each word's description and indices, the most frequent word first."""
    words, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = [({"value": str(words[i])}, np.flatnonzero(place == i)) for i in order[:MOST]]
    if len(others := order[MOST:]):
        parts.append(({"value": f"{len(others):,} others"}, np.flatnonzero(np.isin(place, others))))
    return parts
