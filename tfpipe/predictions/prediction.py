"""Classifies all files of a source, in chunks whose results are kept until all are done."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np

import tfpipe
from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.images.strict import NOT_AN_IMAGE
from tfpipe.predictions import chunk as chunks
from tfpipe.predictions import order
from tfpipe.predictions.chunk import FileChunk, PredictionJob
from tfpipe.predictions.image_classifier import ImageClassifier
from tfpipe.predictions.table import Predictions, heat_map_names
from tfpipe.sources import Source
from tfpipe.sources.member import is_image_name

# Classifies the chunks of a job, and calls a function with the number of files done.
Runner = Callable[[PredictionJob, Sequence[FileChunk], Callable[[int], object]], object]

# A file in the work folder: the folder of the heat maps was empty at the start.
_BEGUN = "begun"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A source and its classifier.

    Attributes:
        source: the files.
        classifier: classifies them.
        heat_maps: folder of the heat maps; empty for none.
        limit: number of heat maps; 0 for all.
    """

    source: Source
    classifier: ImageClassifier
    heat_maps: str = ""
    limit: int = 0

    @functools.cached_property
    def names(self) -> list[str]:
        """The readable files, then the unreadable ones, which still get a row.

        An unreadable file gets a row if its name is an image's and no other file has its id, such
        as an encrypted member of an archive, or a missing file of a list.
        """
        readable = self.source.names()
        ids = set(map(order.identity, readable))
        more = []
        for name, _, _ in self.source.skipped:
            found = order.identity(name)
            if is_image_name(name) and found not in ids:
                ids.add(found)
                more.append(name)
        return [*readable, *more]

    def key(self) -> str:
        """Return a hex digest of all that determines the predictions."""
        parts = {
            "source": self.source.fingerprint(),
            "classifier": self.classifier.identity,
            "heat_maps": [self.heat_maps, self.limit if self.heat_maps else 0],
            "chunk": chunks.SIZE,
            "tfpipe": tfpipe.__version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run(
        self, work: remote.Path, runner: Runner, thresholds: Sequence[float] | None = None
    ) -> Predictions:
        """Classify the missing chunks, and return all predictions.

        Args:
            work: the work folder.
            runner: classifies chunks.
            thresholds: of the classes, in place of the model's own, where images may have several.

        Raises:
            UserError: the classifier does not answer, nothing can be written, or the folder of
                the heat maps holds other files.
        """
        readable = self.source.names()
        maps = heat_map_names(readable, self.limit) if self.heat_maps else {}
        if self.heat_maps:
            self._prepare_heat_maps(work)
        job = PredictionJob((self.source,), str(work), self.classifier, self.heat_maps)
        all_chunks = chunks.divide(readable, maps)
        todo = [chunk for chunk in all_chunks if chunks.load(job.work, chunk) is None]
        with terminal.progress("predicting", sum(len(chunk.names) for chunk in todo)) as advance:
            if todo:
                runner(job, todo, advance)
        predictions = self._gather(job.work, all_chunks, maps, thresholds)
        if not predictions.names:
            name, reason, detail = predictions.skipped[0]
            raise UserError(
                f"`source`: none of the {len(predictions.skipped):,} files in {self.source.path} is"
                f" an image, the first is {name!r} ({reason}: {detail}): name one with images"
            )
        return predictions

    def _prepare_heat_maps(self, work: remote.Path) -> None:
        folder = remote.to_path(self.heat_maps)
        there = storage.names_in(folder)
        if storage.exists(work / _BEGUN):
            for name in there:
                if name.startswith(storage.PARTIAL_PREFIX):  # left by a killed process
                    storage.remove(folder / name)
            return
        if there:
            raise UserError(
                f"--explain={self.heat_maps} holds files already, as {min(there)!r}: name a new"
                " folder, or remove it"
            )
        try:
            storage.make_folder(folder)
        except OSError as error:
            raise UserError(
                f"--explain={self.heat_maps} cannot be written to ({error.strerror}): name another"
                " folder"
            ) from None
        storage.write_whole(work / _BEGUN, b"")

    def _gather(
        self,
        work: str,
        all_chunks: Sequence[FileChunk],
        maps: dict[str, str],
        thresholds: Sequence[float] | None,
    ) -> Predictions:
        """Return the predictions of all chunks."""
        outputs, unfamiliar, rejects = [], [], {}
        for chunk in all_chunks:
            result = chunks.load(work, chunk)
            if result is None:
                raise ResumableError(f"{work}/{chunk.path} is not there any more, or damaged")
            outputs.append(result.outputs)
            unfamiliar.append(result.unfamiliar)
            rejects |= {chunk.names[place]: why for place, why in result.rejects.items()}
        joined = np.concatenate(outputs)
        found = self.classifier.probabilities(joined)
        answers = self.classifier.answers(joined, thresholds)
        unread = set(self.names[len(found) :])
        why = {name: (reason, detail) for name, reason, detail in self.source.skipped}
        rejects |= {name: why[name] for name in unread}
        probabilities = np.tile(self.classifier.prior, (len(self.names), 1))
        scores = np.full(len(self.names), np.nan, np.float32)
        scores[: len(found)] = np.concatenate(unfamiliar)
        scores[[name in rejects for name in self.names]] = np.nan
        others = set()
        for place, name in enumerate(self.names):
            if name not in rejects:
                probabilities[place] = found[place]
            elif rejects[name][0] == NOT_AN_IMAGE and not is_image_name(name):
                others.add(name)
        kept = [place for place, name in enumerate(self.names) if name not in others]
        skipped = [each for each in self.source.skipped if each[0] not in unread]
        skipped += [(name, *rejects.pop(name)) for name in others]
        folder = remote.to_path(self.heat_maps)
        if answers is not None:
            unread_rows = np.zeros((len(self.names) - len(answers), answers.shape[1]), bool)
            readable = np.array([name not in rejects for name in self.names], bool)
            answers = np.concatenate([answers, unread_rows]) & readable[:, np.newaxis]
        drawn = {name: str(folder / file) for name, file in maps.items() if name not in rejects}
        return Predictions(
            [self.names[place] for place in kept],
            self.classifier.classes,
            probabilities[kept],
            rejects,
            sorted(skipped),
            drawn if self.heat_maps else None,
            answers=None if answers is None else answers[kept],
            unfamiliar=None if np.isnan(scores).all() else scores[kept],
        )
