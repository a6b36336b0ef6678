"""A prediction: every file of a source, classified in chunks that are kept until all are done."""

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
from tfpipe.predictions.chunk import Chunk, Job
from tfpipe.predictions.classifier import Classifier
from tfpipe.predictions.table import Answers, heat_map_names
from tfpipe.sources import Source
from tfpipe.sources.labels import is_image_name

# Classifies the chunks of a job, and calls a function with the number of further files done.
Runner = Callable[[Job, Sequence[Chunk], Callable[[int], object]], object]

# In the work folder once the heat maps' folder was seen to be empty.
_BEGUN = "begun"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What decides the answers.

    Attributes:
        source: of the files.
        classifier: which classifies them.
        heat_maps: the folder of heat maps; empty for none.
        limit: how many images get one; 0 for all.
    """

    source: Source
    classifier: Classifier
    heat_maps: str = ""
    limit: int = 0

    @functools.cached_property
    def names(self) -> list[str]:
        """The files that are read, and then those that are not but get a row all the same.

        Such a file is meant as an image, to judge by its name, and no other has its id: a member of
        an archive that is encrypted, or what a list names and is not there.
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
        """Returns a hex digest of all that decides the answers."""
        parts = {
            "source": self.source.fingerprint(),
            "classifier": self.classifier.identity,
            "heat_maps": [self.heat_maps, self.limit if self.heat_maps else 0],
            "chunk": chunks.SIZE,
            "tfpipe": tfpipe.__version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run(self, work: remote.Path, runner: Runner) -> Answers:
        """Classifies what is not classified yet, and gathers the answers.

        Args:
            work: the work folder.
            runner: classifies chunks.

        Raises:
            UserError: the classifier does not answer, nothing can be written, or the folder of
                the heat maps holds other files.
        """
        readable = self.source.names()
        maps = heat_map_names(readable, self.limit) if self.heat_maps else {}
        if self.heat_maps:
            self._prepare_heat_maps(work)
        job = Job((self.source,), str(work), self.classifier, self.heat_maps)
        all_chunks = chunks.divide(readable, maps)
        todo = [chunk for chunk in all_chunks if chunks.load(job.work, chunk) is None]
        with terminal.progress("predicting", sum(len(chunk.names) for chunk in todo)) as advance:
            if todo:
                runner(job, todo, advance)
        answers = self._gather(job.work, all_chunks, maps)
        if not answers.names:
            name, reason, detail = answers.passed_over[0]
            raise UserError(
                f"--source: none of the {len(answers.passed_over):,} files in {self.source.path} is"
                f" an image, the first is {name!r} ({reason}: {detail}): name one with images"
            )
        return answers

    def _prepare_heat_maps(self, work: remote.Path) -> None:
        folder = remote.to_path(self.heat_maps)
        there = storage.names_in(folder)
        if storage.exists(work / _BEGUN):
            for name in there:
                if name.startswith(storage.PARTIAL_PREFIX):  # it was killed while it wrote that
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

    def _gather(self, work: str, all_chunks: Sequence[Chunk], maps: dict[str, str]) -> Answers:
        """Puts the answers of all chunks together."""
        outputs, rejects = [], {}
        for chunk in all_chunks:
            found = chunks.load(work, chunk)
            if found is None:
                raise ResumableError(f"{work}/{chunk.path} is not there any more, or damaged")
            outputs.append(found.outputs)
            rejects |= {chunk.first + place: why for place, why in found.rejects.items()}
        readable = self.classifier.probabilities(np.concatenate(outputs))
        probabilities = np.empty((len(self.names), readable.shape[1]), np.float32)
        probabilities[: len(readable)] = readable
        skipped = {name: (reason, detail) for name, reason, detail in self.source.skipped}
        rejects |= {
            place: skipped.pop(self.names[place]) for place in range(len(readable), len(self.names))
        }
        probabilities[list(rejects)] = self.classifier.prior
        answers = Answers(
            self.names,
            self.classifier.classes,
            probabilities,
            rejects,
            [(name, *why) for name, why in skipped.items()],
        )
        if self.heat_maps:
            folder = remote.to_path(self.heat_maps)
            drawn = {
                place: str(folder / maps[name])
                for place, name in enumerate(self.names)
                if name in maps and place not in rejects
            }
            answers = dataclasses.replace(answers, heat_maps=drawn)
        return answers.without(
            place
            for place, (reason, _) in rejects.items()
            if reason == NOT_AN_IMAGE and not is_image_name(self.names[place])
        )
