"""What the tasks of a build share, and what runs them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tfpipe.core import remote, storage
from tfpipe.images.image_info import ImageRef
from tfpipe.images.store import Store
from tfpipe.sources import Source, retry


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings that all tasks of a build share.

    A task writes its result to the work folder, under a name that the task alone decides. The name
    appears only when the file is complete. So a lost task is done again, and a build that was
    killed resumes:

        scan/000000064-32.jsonl    the descriptions of images 64 to 95, one a line, in order
        scan/000000064-32.spool    what is stored of those that were converted or resized
        shards/train-00000-of-00002.tfrecord.plan    the descriptions of the images of a shard
        shards/train-00000-of-00002.tfrecord         the shard, and, written after it,
        shards/train-00000-of-00002.tfrecord.json    its size and digest

    Attributes:
        sources: the sources; an `ImageRef` has an index into them.
        work: the work folder.
        store: how images are stored.
        seed: of the transformed copies.
        classes: in the order of their numbers.
    """

    sources: tuple[Source, ...]
    work: str
    store: Store
    seed: int
    classes: tuple[str, ...] = ()

    @functools.cached_property
    def class_numbers(self) -> dict[str, int]:
        """The number of each class, by name."""
        return {name: number for number, name in enumerate(self.classes)}

    def prepare(self) -> None:
        """Load what reading and writing need, before an image's memory and time are limited."""
        for source in self.sources:
            source.prepare()
        if remote.is_remote(self.work):
            storage.exists(self.work)  # imports TensorFlow

    def locate(self, ref: ImageRef) -> str:
        """Return where a file is, for a person."""
        return self.sources[ref.source].locate(ref.name)

    def read(self, ref: ImageRef, waits: Iterator[float] | None = None) -> bytes:
        """Return the contents of a file; try again if a disk or network fails for a moment.

        Args:
            ref: the file.
            waits: seconds before each further try; None for `retry.WAITS`.

        Raises:
            Rejected: the file cannot be read.
        """
        return retry.read(self.sources[ref.source], ref.name, waits)


# Called for a context in which a task may use an image's memory and time.
Limit = Callable[[], AbstractContextManager]


class Runner(Protocol):
    """Runs tasks: `workers.Pool` on this machine, `beam.BeamRunner` also on others."""

    def run(self, function: Callable, items: Iterable) -> Iterator[tuple[Any, Any]]:
        """Run a task for each item; yield each item with None, or with why it was lost."""
