"""A run, a cross-validation or an ensemble as the classifier."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.model import signatures
from tfpipe.model.calibration import Calibration
from tfpipe.model.familiarity import NAME
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.predictions.image_classifier import Outcome
from tfpipe.predictions.local import LocalClassifier
from tfpipe.runs import loaded_run


@dataclasses.dataclass(frozen=True)
class RunClassifier(LocalClassifier):
    """A trained run or ensemble; its outputs are logits.

    Attributes:
        folder: the run's folder.
        tta: test-time views, "none" for none; empty for the run's own.
    """

    folder: str
    tta: str = ""

    @property
    def image_size(self) -> int:  # noqa: D102
        return self._predictor.image_size

    @functools.cached_property
    def run(self) -> loaded_run.LoadedRun:
        """The run."""
        return loaded_run.load(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:  # noqa: D102
        return self.run.classes

    @property
    def depth16(self) -> str:  # noqa: D102
        return self.run.depth16

    @property
    def class_shares(self) -> Sequence[float]:  # noqa: D102
        return self.run.class_shares

    @property
    def prior(self) -> np.ndarray:  # noqa: D102
        shares = np.asarray([self.class_shares], np.float32)
        return np.asarray(self._calibration.clip(shares, many=self.many))[0]

    @functools.cached_property
    def thresholds(self) -> tuple[float, ...] | None:  # noqa: D102
        return self.run.thresholds

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # noqa: D102
        calibration = self._calibration.to_json()
        more = {}
        if familiarity := self.run.familiarity():
            more = {NAME: [familiarity.reject_rate, familiarity.limit]}
        return {**self.run.identity(), "views": self.tta, "calibration": calibration, **more}

    def classify(self, images: Sequence[np.ndarray | None]) -> Outcome:  # noqa: D102
        found = self._outputs(tf.constant(self.batch(images)))
        rows = {key: value.numpy()[: len(images)] for key, value in found.items()}
        return Outcome(rows["logits"], unfamiliar=rows.get(NAME))

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._calibration.apply(outputs, self.run.output).numpy()

    def own_probabilities(self, outputs: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._own_calibration.apply(outputs, self.run.output).numpy()

    def heat_maps(self, files: Sequence[bytes]) -> np.ndarray:  # noqa: D102
        return self._explain(tf.constant(list(files)))["heat_map"].numpy()

    @functools.cached_property
    def _own_calibration(self) -> Calibration:
        return self.run.calibration()

    @property
    def _calibration(self) -> Calibration:
        if self.bounds is None:
            return self._own_calibration
        clip_min, clip_max = self.bounds
        return dataclasses.replace(self._own_calibration, clip_min=clip_min, clip_max=clip_max)

    @functools.cached_property
    def _predictor(self) -> Predictor | EnsemblePredictor:
        predictor = self.run.uncalibrated(tta=self.tta)
        return dataclasses.replace(predictor, calibration=self._calibration)

    @functools.cached_property
    def _outputs(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        return tf.function(self._predictor.outputs, autograph=False)

    @functools.cached_property
    def _explain(self) -> Callable:
        """The export's signature `explain`."""
        context = signatures.Context(self._predictor, self.classes)
        return signatures.signatures["explain"](context).checked()
