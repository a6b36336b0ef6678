"""Validation images of a run, and their probabilities in the evaluation."""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.images import pixels, upload
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.model.familiarity import NAME
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.runs.loaded_run import LoadedRun, open_records

# The largest difference of "unfamiliar", a sum over thousands of products, relative to the limit,
# or to the score where that is larger.
_UNFAMILIAR_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class SampleImages:
    """Sample images.

    Attributes:
        files: the encoded images.
        expected: float32 [n, C], their probabilities in the evaluation.
        unfamiliar: float32 [n], their score there; None if the run has none.
        depth16: how 16-bit greys become 8-bit ones, see `upload.decode`.
    """

    files: tuple[bytes, ...]
    expected: np.ndarray
    unfamiliar: np.ndarray | None = None
    depth16: str = pixels.AUTO

    def decoded(self, size: int) -> np.ndarray:
        """Return the images as the exported model decodes them, uint8 [n, size, size, 3]."""
        return upload.decode(tf.constant(list(self.files)), size, self.depth16)[0].numpy()

    def check(
        self, found: Mapping[str, np.ndarray], tolerance: float, *, of: str, advice: str
    ) -> float:
        """Compare answers to the images with the evaluation's.

        Args:
            found: "probabilities" float32 [n, C], and "unfamiliar" float32 [n] if the run has it.
            tolerance: the largest difference of a probability.
            of: what answers, for the message: a text with {} for the name of an output.
            advice: what to do about a difference, for the message.

        Returns:
            The largest difference of a probability.

        Raises:
            UserError: they differ by more.
        """
        difference = float(np.abs(found["probabilities"] - self.expected).max())
        compared = [("probabilities", "differ", difference, tolerance)]
        if self.unfamiliar is not None:
            apart = np.abs(found[NAME] - self.unfamiliar) / np.maximum(self.unfamiliar, 1)
            compared.append((f"`{NAME}`", "differs", float(apart.max()), _UNFAMILIAR_TOLERANCE))
        for output, differs, value, allowed in compared:
            if not value <= allowed:  # NaN too
                raise UserError(
                    f"not exported: {of.format(output)} {differs} from the evaluation's by"
                    f" {value:.2g}, and {allowed:g} is allowed: {advice}"
                )
        return difference

    def cycle(self, size: int) -> list[bytes]:
        """Return a batch of images, repeated if there are fewer."""
        return list(itertools.islice(itertools.cycle(self.files), size))


def take(
    run: LoadedRun, predictor: Predictor | EnsemblePredictor, records: str, count: int
) -> SampleImages:
    """Take the first images of a run's validation records, and evaluates them.

    Args:
        run: the trained run or ensemble.
        predictor: its predictor.
        records: folder of the records; empty for the run's own.
        count: number of images, at least 1.

    Raises:
        UserError: the records are missing or have an unknown class, or no image is encoded, as
            after `--store=raw`, and so cannot be sent.
    """
    part = run.validation(open_records(run, records))
    fields = (each for each in part.records() if not each.copy)
    sent = [each for each in itertools.islice(fields, count) if each.format != "raw"]
    if not sent:
        raise UserError(
            f"{part.name} of {part.manifest.folder} has no image that can be sent to a server: give"
            " other --records, or --check_images=0 to export unchecked"
        )
    batches = pipeline.eval_batches(
        part, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    ).take(-(-len(sent) // inference.BATCH_SIZE))
    found = inference.predict(predictor, batches, len(sent), "evaluating")
    terminal.say(f"compared with: {len(sent)} images of {part.name} of {part.manifest.folder}")
    first = {key: found[key][: len(sent)] for key in ("probabilities", NAME) if key in found}
    files = tuple(each.encoded for each in sent)
    return SampleImages(files, first["probabilities"], first.get(NAME), run.depth16)
