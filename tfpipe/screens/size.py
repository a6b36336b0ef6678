"""The screen `size`: outliers in the size of the picture and of its file."""

import math

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.screens.screen import Options, Screen, ScreenedImages, Suspect, screens

# Smallest interquartile range, as a share of the upper quartile: where three quarters of the images
# are 500 pixels wide, one of 499 is no outlier.
_LEAST_SPREAD = 0.01


@screens.register("size")
class Size(Screen):
    """Tukey's fences (Exploratory Data Analysis, 1977): quartiles -/+ 1.5 interquartile ranges."""

    name = "size"
    question = "Is the width, height, area, aspect or compression far from that of the others?"
    score = "largest distance of these from the quartiles, in interquartile ranges"

    def __init__(self, options: Options, classes: tuple[str, ...]):
        del classes
        if not (0 < options.screen_iqrs < math.inf):
            raise UserError(
                f"`screen_iqrs={options.screen_iqrs:g}`: give a number above 0, such as 1.5 or 3",
                status=2,
            )
        self._limit = options.screen_iqrs

    def find(self, images: ScreenedImages) -> list[Suspect]:
        """Return the images that lie outside the fences in any quantity, worst first."""
        quantities = measure(images)
        distances = {name: distance(values) for name, values in quantities.items()}
        furthest = np.max(list(distances.values()), axis=0)
        suspects = []
        for index in np.argsort(-furthest, kind="stable").tolist():
            if not furthest[index] > self._limit:
                break
            far = [
                f"{name} {quantities[name][index]:.4g} (median {np.median(quantities[name]):.4g})"
                for name in quantities
                if distances[name][index] > self._limit
            ]
            suspects.append(Suspect(index, float(furthest[index]), ", ".join(far)))
        return suspects


def measure(images: ScreenedImages) -> dict[str, np.ndarray]:
    """Return each quantity of the files, float64 [N]: pixels, a ratio, or bytes per pixel."""
    width = np.array([found.file_width for found in images.found], np.float64)
    height = np.array([found.file_height for found in images.found], np.float64)
    size = np.array([found.file_bytes for found in images.found], np.float64)
    return {
        "width": width,
        "height": height,
        "area": width * height,
        "aspect": width / height,
        "bytes per pixel": size / (width * height),
    }


def distance(values: np.ndarray) -> np.ndarray:
    """Return the distance of each value from the quartiles in interquartile ranges, 0 between them.

    The quartiles are linearly interpolated; the range is at least 1 % of the upper quartile.

    Args:
        values: above 0, float64 [N].
    """
    lower, upper = np.percentile(values, [25, 75])
    spread = max(upper - lower, _LEAST_SPREAD * upper)
    return np.maximum(0.0, np.maximum(lower - values, values - upper) / spread)
