"""Slices: the metrics of small, dark or oddly shaped images, and of each folder.

Numbers are cut at their quartiles, so a slice has about a quarter of the images. Each word is a
slice. To add an attribute, register it here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfpipe.core.registry import Registry
from tfpipe.evaluation import bootstrap, label_sets
from tfpipe.evaluation.metrics import LabeledPredictions, values_of

MOST = 10  # slices of words; all rarer words are one more


# "name" str [n], path relative to the source; "height" and "width" in pixels, int [n];
# "brightness", mean luma in 0..255, float [n].
ImageProperties = Mapping[str, np.ndarray]


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
    "size", Attribute("shorter side, px", lambda each: np.minimum(each["height"], each["width"]))
)
attributes.add(
    "aspect", Attribute("width : height", lambda each: each["width"] / each["height"], 2)
)
attributes.add("brightness", Attribute("mean luma", lambda each: each["brightness"], 1))
# The records have the path of an image within its source, and nothing else of the source.
attributes.add(
    "source",
    Attribute("folder", lambda each: np.array([n.rpartition("/")[0] or "." for n in each["name"]])),
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
        "value", the word; "n"; every metric; "log_loss_interval" and "accuracy_interval", their
        95 % bounds ("subset_accuracy_interval" where images may have several classes); "worse",
        whether both of the log loss lie above that of all images (by chance, about one slice of
        forty is); and "reasons" for each None, by name.
    """
    overall = predictions.metrics["log_loss"].value(predictions)
    found = []
    for name in attributes:
        values = attributes[name].of(images)
        for described, chosen in (
            _words(values) if values.dtype.kind in "UO" else _quartiles(values)
        ):
            measured = _metrics(predictions[chosen], overall, rounds)
            found.append({"by": name, **described, **measured})
    return found


def _metrics(predictions: LabeledPredictions, overall: float, rounds: int) -> dict[str, Any]:
    values, reasons = values_of(predictions)
    interval, reason = None, bootstrap.obstacle("log_loss", predictions)
    if not reason:
        statistics = {"log_loss": predictions.metrics["log_loss"].of(predictions)}
        samples = bootstrap.resampled(statistics, len(predictions), rounds=rounds)
        interval, reason = bootstrap.interval(samples["log_loss"], values["log_loss"])
    if reason:
        reasons["log_loss_interval"] = reason
    accuracy = label_sets.accuracy_of(predictions.labels_kind)
    return {
        "n": len(predictions),
        **values,
        "log_loss_interval": interval,
        f"{accuracy}_interval": predictions.metrics[accuracy].interval(predictions),
        "worse": interval is not None and interval[0] > overall,
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
