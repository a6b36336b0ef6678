"""A chunk of files, and the file with its results.

    chunks/000000256-256.npz    the results of files 256 to 511

The file appears when the whole chunk is classified. A lost chunk is done again, here or on another
machine, and a killed prediction continues with the next chunk. Batches never cross chunks, so the
results are identical to the last bit.
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
from tfpipe.images.store import Store
from tfpipe.input.files import read_files
from tfpipe.input.threads import parallel_map
from tfpipe.predictions import overlay
from tfpipe.predictions.image_classifier import ImageClassifier
from tfpipe.sources import Source

# A multiple of the batch size; some seconds of work on a CPU.
SIZE = 256

REFUSED = "refused"  # the reason when the classifier rejects a file

_FOLDER = "chunks"

# Heat maps in one request; each is large.
_HEAT_MAPS = 8


@dataclasses.dataclass(frozen=True)
class PredictionJob:
    """What all chunks of a prediction share.

    Attributes:
        sources: one source of the files.
        work: the work folder.
        classifier: classifies the files.
        heat_maps: the folder of the heat maps; empty for none.
    """

    sources: tuple[Source]
    work: str
    classifier: ImageClassifier
    heat_maps: str = ""


class FileChunk(NamedTuple):
    """Files that are classified together.

    Attributes:
        first: position of the first file.
        names: the files.
        heat_maps: (position in the chunk, file name of the heat map).
    """

    first: int
    names: tuple[str, ...]
    heat_maps: tuple[tuple[int, str], ...] = ()

    @property
    def path(self) -> str:
        """The path of its file in the work folder."""
        return f"{_FOLDER}/{self.first:09d}-{len(self.names)}.npz"


class ChunkResult(NamedTuple):
    """The results of a chunk.

    Attributes:
        outputs: float32 [n, K], from the classifier.
        rejects: (reason, detail) by the position in the chunk.
        unfamiliar: float32 [n], NaN where there is no score; see `Outcome`.
    """

    outputs: np.ndarray
    rejects: dict[int, tuple[str, str]]
    unfamiliar: np.ndarray


def divide(names: Sequence[str], heat_maps: dict[str, str]) -> list[FileChunk]:
    """Divide files into chunks; `heat_maps` has file names of heat maps by name of the file."""
    chunks = []
    for first in range(0, len(names), SIZE):
        some = tuple(names[first : first + SIZE])
        maps = [(place, heat_maps[name]) for place, name in enumerate(some) if name in heat_maps]
        chunks.append(FileChunk(first, some, tuple(maps)))
    return chunks


def predict_chunk(job: PredictionJob, chunk: FileChunk) -> None:
    """Classify one chunk in a worker process, which loads the model once."""
    predict(dataclasses.replace(job, classifier=_held(job.classifier, job.work)), [chunk])


def predict(
    job: PredictionJob,
    chunks: Sequence[FileChunk],
    advance: Callable[[int], object] = lambda n: None,
) -> None:
    """Classify chunks; reading continues from one into the next.

    Args:
        job: the prediction.
        chunks: the chunks to classify.
        advance: called with the number of files that were done.

    Raises:
        UserError: the classifier does not answer, or nothing can be written.
    """
    concurrency = job.classifier.concurrency
    done: list[_Result] = []
    for result in parallel_map(
        functools.partial(_classify, job),
        ((batch,) for batch in _batches(job, chunks)),
        threads=concurrency,
        ahead=concurrency + 1,
    ):
        advance(len(result.outputs))
        done.append(result)
        if result.is_last:
            _save(job, done)
            done = []


def load(work: str, chunk: FileChunk) -> ChunkResult | None:
    """Return the results of a chunk; None if it is not done."""
    data = storage.read_whole(f"{work}/{chunk.path}")
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            outputs, rejects = arrays["outputs"], json.loads(arrays["rejects"].tobytes())
            unfamiliar = arrays["unfamiliar"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    why = {place: (reason, detail) for place, reason, detail in rejects}
    return ChunkResult(outputs, why, unfamiliar)


class _File(NamedTuple):
    """A file: the classifier's input, and the file itself if it gets a heat map."""

    prepared: Any
    encoded: bytes


class _Batch(NamedTuple):
    """The files of a chunk from a position on."""

    chunk: FileChunk
    start: int
    files: list[_File | Rejected]
    is_last: bool


class _Result(NamedTuple):
    """The results of a batch; `rejects` has (position in the chunk, reason, detail)."""

    chunk: FileChunk
    outputs: np.ndarray
    rejects: list[tuple[int, str, str]]
    unfamiliar: np.ndarray
    is_last: bool


@functools.lru_cache(maxsize=1)
def _held(classifier: ImageClassifier, work: str) -> ImageClassifier:
    """Return the classifier that this process has loaded for a work folder."""
    del work  # part of the key: the model may have changed for another prediction
    return classifier


def _batches(job: PredictionJob, chunks: Sequence[FileChunk]) -> Iterator[_Batch]:
    """Read files and group them into batches."""
    classifier = job.classifier
    shown = {chunk.names[place] for chunk in chunks for place, _ in chunk.heat_maps}

    def prepare(name: str, encoded: bytes) -> _File:
        return _File(classifier.prepare(encoded), encoded if name in shown else b"")

    names = (name for chunk in chunks for name in chunk.names)
    store = Store(depth16=classifier.depth16)
    ready = read_files(job.sources[0], names, prepare, ahead=classifier.ahead, store=store)
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


def _classify(job: PredictionJob, batch: _Batch) -> _Result:
    """Classify a batch and draw its heat maps."""
    outcome = job.classifier.classify(
        [None if isinstance(file, Rejected) else file.prepared for file in batch.files]
    )
    readable, rejects = {}, []
    for place, file in enumerate(batch.files):
        if isinstance(file, Rejected):
            rejects.append((batch.start + place, file.reason, file.detail))
        elif place in outcome.refused:
            rejects.append((batch.start + place, REFUSED, outcome.refused[place]))
        else:
            readable[batch.start + place] = file.encoded
    shown = [(readable[p], name) for p, name in batch.chunk.heat_maps if p in readable]
    for at in range(0, len(shown), _HEAT_MAPS):
        files, names = zip(*shown[at : at + _HEAT_MAPS], strict=True)
        for file, heat, name in zip(files, job.classifier.heat_maps(files), names, strict=True):
            path = remote.to_path(job.heat_maps) / name
            storage.write_whole(path, overlay.png(file, heat))
    unfamiliar = outcome.unfamiliar
    if unfamiliar is None:
        unfamiliar = np.full(len(outcome.outputs), np.nan, np.float32)
    return _Result(batch.chunk, outcome.outputs, rejects, unfamiliar, batch.is_last)


def _save(job: PredictionJob, results: Sequence[_Result]) -> None:
    rejects = [reject for result in results for reject in result.rejects]
    data = io.BytesIO()
    np.savez(
        data,
        outputs=np.concatenate([result.outputs for result in results]).astype(np.float32),
        rejects=np.frombuffer(json.dumps(rejects).encode(), np.uint8),
        unfamiliar=np.concatenate([result.unfamiliar for result in results]),
    )
    storage.write_whole(f"{job.work}/{results[0].chunk.path}", data.getvalue())
