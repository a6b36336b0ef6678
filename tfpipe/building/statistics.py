"""Statistics of the images of a data set, for its manifest: sizes, shapes, bytes and colours."""

import math
from collections.abc import Sequence

import numpy as np

from tfpipe.images.image_table import ImageTable
from tfpipe.records import label_set

# What is given of each measure.
QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}

# The digits after the point of each measure.
DIGITS = {"width": 1, "height": 1, "aspect": 4, "bytes": 0, "bytes_per_pixel": 4}
COLOR_DIGITS = 2


def describe(images: ImageTable, labels: Sequence[str]) -> dict:
    """Return statistics of the files' images, upright, before the option `store` resized them.

    Args:
        images: at least one.
        labels: the label of each, as of `label_set`.

    Returns:
        `{"all": summary, "classes": {class: summary}}`, the classes sorted, ready for JSON and the
        same for any order of the images. A summary has `images`, their number; the `QUANTILES` of
        `width` and `height` (pixels), `aspect` (width / height), `bytes` (of the file) and
        `bytes_per_pixel` (bytes / (width * height)); and `color`, the mean of the images' mean
        R, G and B, 0 to 255.

        Quantiles are interpolated linearly between the two nearest images, NumPy's default:
        definition 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages" (1996).
    """
    width, height, size, *color = (
        images.rows[name].astype(np.float64)
        for name in ("file_width", "file_height", "file_bytes", "red", "green", "blue")
    )
    values = np.stack([width, height, width / height, size, size / (width * height)])  # as DIGITS
    colors = np.stack(color, axis=1)
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        for name in label_set.names(label):
            members.setdefault(name, []).append(index)
    return {
        "all": _summarize(values, colors),
        "classes": {
            label: _summarize(values[:, indices], colors[indices])
            for label, indices in sorted(members.items())
        },
    }


def _summarize(values: np.ndarray, colors: np.ndarray) -> dict:
    """Summarize `values` [measures, images] and `colors` [images, 3]."""
    summary: dict = {"images": len(colors)}
    rows = np.quantile(values, list(QUANTILES.values()), axis=1).T
    for (measure, digits), row in zip(DIGITS.items(), rows, strict=True):
        summary[measure] = {
            name: _rounded(value, digits) for name, value in zip(QUANTILES, row, strict=True)
        }
    # Exactly rounded sums do not depend on the order.
    means = (math.fsum(channel) / len(colors) for channel in colors.T)
    summary["color"] = [_rounded(mean, COLOR_DIGITS) for mean in means]
    return summary


def _rounded(value: float, digits: int) -> int | float:
    """Round; a whole number becomes an int, which JSON shows without a point."""
    number = round(float(value), digits)
    return int(number) if number.is_integer() else number
