"""How unfamiliar an image is: the distance of its features from those of the validation images.

The distance is Mahalanobis' from the nearest class mean, with one covariance for all classes (Lee
et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks", arXiv:1807.03888), of features scaled to length 1 (Mueller and Hein 2025, "Mahalanobis++",
arXiv:2505.18032). docs/training.md has the measurement that chose it. `tfpipe.runs.familiarity_fit`
fits it.
"""

import dataclasses
import json
import pathlib
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.core import storage
from tfpipe.core.errors import UserError

NAME = "unfamiliar"  # of the score, in predictions and signatures


@dataclasses.dataclass(frozen=True, eq=False)
class Familiarity:
    """A fitted distance.

    Attributes:
        center: float32 [F], subtracted from features of length 1.
        whitening: float32 [F, F]; centred features times this have the identity as covariance.
        means: float32 [K, F], centred and whitened, of each class that has images.
        limit: the largest distance of a familiar image, above 0.
        reject_rate: the share of images like the validation images that are beyond the limit.
    """

    center: np.ndarray
    whitening: np.ndarray
    means: np.ndarray
    limit: float
    reject_rate: float

    def save(self, path: pathlib.Path, made_for: dict[str, Any]) -> None:
        """Write an .npz file, with what the fit is for."""
        arrays = dataclasses.asdict(self) | {"made_for": json.dumps(made_for)}
        with storage.atomic_file(path, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: pathlib.Path) -> tuple[dict[str, Any], "Familiarity"]:
        """Read what `save` wrote; raise UserError if the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                made_for = json.loads(str(arrays["made_for"]))
                matrices = [arrays[name] for name in ("center", "whitening", "means")]
                numbers = [float(arrays[name]) for name in ("limit", "reject_rate")]
            return made_for, cls(*matrices, *numbers)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is no familiarity of a run ({error}): remove it and run tfpipe.train there"
                " again"
            ) from None

    def distances(self, features: tf.Tensor) -> tf.Tensor:
        """Return the distance of features, float32 [N, F], from the nearest class: [N]."""
        white = (unit_length(features) - self.center) @ self.whitening
        # |w - m|^2 but for |w|^2 finds the nearest mean; the difference itself keeps all digits.
        products = tf.matmul(white, tf.constant(self.means), transpose_b=True)
        nearest = tf.argmin((self.means**2).sum(-1) - 2 * products, -1)
        return tf.norm(white - tf.gather(self.means, nearest), axis=-1)

    def unfamiliar(self, features: tf.Tensor) -> tf.Tensor:
        """Return the distance in units of the limit, float32 [N]: above 1, none of the classes."""
        return self.distances(features) / self.limit


def unit_length(features: tf.Tensor) -> tf.Tensor:
    """Return features [N, F] scaled to length 1; zeros stay zeros."""
    return tf.math.l2_normalize(features, -1)
