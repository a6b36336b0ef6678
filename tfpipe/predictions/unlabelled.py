"""How unfamiliar the images of a source are to a run."""

import itertools

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import Rejected, UserError
from tfpipe.images.store import Store
from tfpipe.input.files import read_files
from tfpipe.predictions.run_classifier import RunClassifier
from tfpipe.sources import Source


def unfamiliar(classifier: RunClassifier, source: Source) -> np.ndarray:
    """Return the score of each readable image of a source, float32 [n]; count the others.

    Raises:
        UserError: no image can be read.
    """
    names = source.names()
    store = Store(depth16=classifier.depth16)
    files = read_files(
        source,
        names,
        lambda name, encoded: classifier.prepare(encoded),
        ahead=classifier.ahead,
        store=store,
    )
    scores: list[np.ndarray] = []
    unreadable = len(source.skipped)
    with terminal.progress("classifying other images", len(names)) as advance:
        while batch := list(itertools.islice(files, classifier.batch_size)):
            good = [each for each in batch if not isinstance(each, Rejected)]
            unreadable += len(batch) - len(good)
            if good:
                scores.append(classifier.classify(good).unfamiliar)
            advance(len(batch))
    if unreadable:
        terminal.warn(f"{source.path}: {unreadable:,} files are no images or cannot be read")
    if not scores:
        raise UserError(f"`other_images`: {source.path} has no image: name a folder with images")
    return np.concatenate(scores)
