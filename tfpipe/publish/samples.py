"""Images that the run was validated on, and what evaluation says of them."""

import dataclasses
import itertools

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.records import manifest as manifests
from tfpipe.runs.loaded_run import LoadedRun, check_classes


@dataclasses.dataclass(frozen=True)
class Samples:
    """Some images.

    Attributes:
        files: the images, encoded.
        expected: float32 [n, C], the probabilities that evaluation gives them.
    """

    files: tuple[bytes, ...]
    expected: np.ndarray

    def cycle(self, size: int) -> list[bytes]:
        """Returns a batch of images, again and again the same if need be."""
        return list(itertools.islice(itertools.cycle(self.files), size))


def take(
    run: LoadedRun, predictor: Predictor | EnsemblePredictor, records: str, count: int
) -> Samples:
    """Takes the first images of a run's validation records, and evaluates them.

    Args:
        run: what was trained.
        predictor: of the run.
        records: folder of the records; empty for those of the run.
        count: how many images, at least 1; fewer if there are fewer.

    Raises:
        UserError: the records are not there, or of other classes; or none is a JPEG or PNG file,
            as of `--store=raw`, which cannot be sent.
    """
    manifest = manifests.load(records or run.records)
    manifest.check()
    check_classes(run, manifest)
    part = run.validation(manifest)
    fields = (each for each in part.records() if not each.copy)
    sent = [each for each in itertools.islice(fields, count) if each.format != "raw"]
    if not sent:
        raise UserError(
            f"{part.name} of {manifest.folder} has no image that can be sent to a server: give"
            " other --records, or --check_images=0 to export unchecked"
        )
    batches = pipeline.eval_batches(
        part, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    ).take(-(-len(sent) // inference.BATCH_SIZE))
    found = inference.predict(predictor, batches, len(sent), "evaluating")
    terminal.say(f"compared with: {len(sent)} images of {part.name} of {manifest.folder}")
    return Samples(tuple(each.encoded for each in sent), found["probabilities"][: len(sent)])
