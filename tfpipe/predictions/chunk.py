"""The files that are classified in one go, and the file that is left of them.

    chunks/000000256-256.npz    what the classifier says of files 256 to 511

It appears only when all of them are classified. So a chunk that is lost is simply done again, here
or on another machine, and a prediction that was killed goes on where it was. Batches never reach
from one chunk into another, so that the answers are the same to the last bit.
"""

import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected
from tfpipe.input.files import read_files
from tfpipe.input.threads import parallel_map
from tfpipe.predictions import overlay
from tfpipe.predictions.classifier import Classifier
from tfpipe.sources import Source

# A whole number of batches, some seconds of work without an accelerator.
SIZE = 256

REFUSED = "refused"  # the reason for a file that the classifier itself refuses

_FOLDER = "chunks"

# Heat maps that are asked for at a time: as answers of a server they take much room.
_HEAT_MAPS = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """What all chunks of a prediction share.

    Attributes:
        sources: one, where the files are.
        work: the work folder.
        classifier: which classifies them.
        heat_maps: the folder of the heat maps; empty for none.
    """

    sources: tuple[Source]
    work: str
    classifier: Classifier
    heat_maps: str = ""


class Chunk(NamedTuple):
    """Files to classify in one go.

    Attributes:
        first: the number of the first one.
        names: of the files.
        heat_maps: (number in the chunk, file name of the heat map) of those that get one.
    """

    first: int
    names: tuple[str, ...]
    heat_maps: tuple[tuple[int, str], ...] = ()

    @property
    def path(self) -> str:
        """Of its file, in the work folder."""
        return f"{_FOLDER}/{self.first:09d}-{len(self.names)}.npz"


class Found(NamedTuple):
    """What came of the files of a chunk.

    Attributes:
        outputs: float32 [n, K], of the classifier.
        rejects: (reason, detail) by the number in the chunk.
    """

    outputs: np.ndarray
    rejects: dict[int, tuple[str, str]]


def divide(names: Sequence[str], heat_maps: dict[str, str]) -> list[Chunk]:
    """Divides files into chunks.

    Args:
        names: of the files.
        heat_maps: the file name of the heat map by the name of each file that gets one.
    """
    chunks = []
    for first in range(0, len(names), SIZE):
        some = tuple(names[first : first + SIZE])
        maps = [(place, heat_maps[name]) for place, name in enumerate(some) if name in heat_maps]
        chunks.append(Chunk(first, some, tuple(maps)))
    return chunks


def predict_chunk(job: Job, chunk: Chunk) -> None:
    """Classifies the files of one chunk; the task of a worker, which loads the model once."""
    predict(dataclasses.replace(job, classifier=_held(job.classifier, job.work)), [chunk])


def predict(
    job: Job, chunks: Sequence[Chunk], advance: Callable[[int], object] = lambda n: None
) -> None:
    """Classifies the files of some chunks, reading ahead from one into the next.

    Args:
        job: the prediction.
        chunks: which are not done yet.
        advance: called with the number of further files that are done.

    Raises:
        UserError: the classifier does not answer, or nothing can be written.
    """
    concurrency = job.classifier.concurrency
    found: list[_Batch] = []
    for batch in parallel_map(
        functools.partial(_classify, job),
        ((batch,) for batch in _batches(job, chunks)),
        threads=concurrency,
        ahead=concurrency + 1,
    ):
        advance(len(batch.files))
        found.append(batch)
        if batch.is_last:
            _save(job, batch.chunk, found)
            found = []


def load(work: str, chunk: Chunk) -> Found | None:
    """Reads what came of a chunk; None if it is not done."""
    data = storage.read_whole(f"{work}/{chunk.path}")
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            outputs, rejects = arrays["outputs"], json.loads(arrays["rejects"].tobytes())
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Found(outputs, {place: (reason, detail) for place, reason, detail in rejects})


@dataclasses.dataclass
class _File:
    """A file that was read: what the classifier takes, and the file itself if that is needed."""

    prepared: Any
    encoded: bytes


@dataclasses.dataclass
class _Batch:
    """A part of a chunk: the files from a number on; later on, what is said of them."""

    chunk: Chunk
    start: int
    files: list[_File | Rejected]
    is_last: bool
    outputs: np.ndarray | None = None
    refused: dict[int, str] = dataclasses.field(default_factory=dict)


@functools.lru_cache(maxsize=1)
def _held(classifier: Classifier, work: str) -> Classifier:
    """Returns the one of equal classifiers that this process has loaded for a work folder."""
    del work  # of another prediction, for which the model may have changed
    return classifier


def _batches(job: Job, chunks: Sequence[Chunk]) -> Iterator[_Batch]:
    """Reads files and groups them."""
    classifier = job.classifier
    shown = {chunk.names[place] for chunk in chunks for place, _ in chunk.heat_maps}

    def prepare(name: str, encoded: bytes) -> _File:
        return _File(classifier.prepare(encoded), encoded if name in shown else b"")

    names = (name for chunk in chunks for name in chunk.names)
    ready = read_files(job.sources[0], names, prepare, ahead=classifier.ahead)
    for chunk in chunks:
        batch, size, start = [], 0, 0
        for place in range(len(chunk.names)):
            file = next(ready)
            more = 0 if isinstance(file, Rejected) else classifier.size(file.prepared)
            full = len(batch) == classifier.batch_size or size + more > classifier.batch_bytes
            if batch and full:
                yield _Batch(chunk, start, batch, is_last=False)
                batch, size, start = [], 0, place
            batch.append(file)
            size += more
        yield _Batch(chunk, start, batch, is_last=True)


def _classify(job: Job, batch: _Batch) -> _Batch:
    """Classifies a batch, draws its heat maps, and lets go of its images."""
    images = [None if isinstance(file, Rejected) else file.prepared for file in batch.files]
    outcome = job.classifier.classify(images)
    shown = []
    for number, name in batch.chunk.heat_maps:
        place = number - batch.start
        if 0 <= place < len(images) and images[place] is not None and place not in outcome.refused:
            shown.append((batch.files[place].encoded, name))
    for at in range(0, len(shown), _HEAT_MAPS):
        files, names = zip(*shown[at : at + _HEAT_MAPS], strict=True)
        for file, heat, name in zip(files, job.classifier.heat_maps(files), names, strict=True):
            path = remote.to_path(job.heat_maps) / name
            storage.write_whole(path, overlay.png(file, heat))
    files = [file if isinstance(file, Rejected) else _File(None, b"") for file in batch.files]
    return dataclasses.replace(
        batch, files=files, outputs=outcome.outputs, refused=dict(outcome.refused)
    )


def _save(job: Job, chunk: Chunk, batches: Sequence[_Batch]) -> None:
    rejects = []
    for batch in batches:
        for place, file in enumerate(batch.files):
            if isinstance(file, Rejected):
                rejects.append((batch.start + place, file.reason, file.detail))
            elif place in batch.refused:
                rejects.append((batch.start + place, REFUSED, batch.refused[place]))
    data = io.BytesIO()
    np.savez(
        data,
        outputs=np.concatenate([batch.outputs for batch in batches]).astype(np.float32),
        rejects=np.frombuffer(json.dumps(rejects).encode(), np.uint8),
    )
    storage.write_whole(f"{job.work}/{chunk.path}", data.getvalue())
