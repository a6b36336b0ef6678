"""The predictions of all images in order, as the columns that a format writes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfpipe.core.errors import one_line
from tfpipe.predictions import order
from tfpipe.protocol.classification import UNFAMILIAR_OUTPUT
from tfpipe.runs.predictions_file import PROBABILITY

# Several texts are the classes of one image.
Cell = str | float | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows and columns, before a format writes them.

    Attributes:
        header: names of the columns.
        numbers: the columns of numbers, float32; all others are text.
        digits: significant digits of a number in a text format.
        rows: returns an iterator of the rows.
    """

    header: tuple[str, ...]
    numbers: frozenset[str]
    digits: int
    rows: Callable[[], Iterator[tuple[Cell, ...]]]

    def __iter__(self) -> Iterator[tuple[Cell, ...]]:
        return self.rows()


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The prediction of each image, in the order of the names.

    Attributes:
        names: the images, readable or not.
        classes: class names in the order of the probabilities.
        probabilities: float32 [n, C]; the prior for an image that cannot be read.
        rejects: (reason, detail) by the name of an unreadable image.
        skipped: (name, reason, detail) of the files that are no images.
        heat_maps: path of the heat map by the image's name; None if none are drawn.
        threshold: for two classes, the least probability of the second to be the label; None for
            the more probable class.
        answers: where images may have several classes, whether each is answered, bool [n, C];
            else None.
        unfamiliar: float32 [n], above 1 for none of the classes, NaN for an image that cannot be
            read; None if the model has no such score.
    """

    names: Sequence[str]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    rejects: Mapping[str, tuple[str, str]]
    skipped: Sequence[tuple[str, str, str]] = ()
    heat_maps: Mapping[str, str] | None = None
    threshold: float | None = None
    answers: np.ndarray | None = None
    unfamiliar: np.ndarray | None = None

    def labels(self) -> np.ndarray:
        """Return the class of each image, int [n]; -1 for an unreadable one."""
        if self.threshold is None:
            found = self.probabilities.argmax(1)
        else:  # in float64: a threshold may lie between two neighbouring float32
            found = (self.probabilities[:, 1].astype(np.float64) >= self.threshold).astype(np.int64)
        found[[name in self.rejects for name in self.names]] = -1
        return found

    def count(self) -> dict[str, int]:
        """Return the number of images by class, without unreadable ones."""
        if self.answers is not None:
            return dict(zip(self.classes, self.answers.sum(0).tolist(), strict=True))
        found = self.labels()
        counts = np.bincount(found[found >= 0], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def count_unfamiliar(self) -> int | None:
        """Return the number of images of none of the classes; None without a score."""
        return None if self.unfamiliar is None else int((self.unfamiliar > 1).sum())

    def kaggle(self) -> Table:
        """Return Kaggle's columns: the id and P(second class), or for more classes each."""
        two = len(self.classes) == 2 and self.answers is None
        numbers = ("label",) if two else self.classes

        def rows() -> Iterator[tuple[Cell, ...]]:
            for place in self._places:
                row = self.probabilities[place].tolist()
                yield _text(order.identity(self.names[place])), *(row[1:] if two else row)

        return Table(("id", *numbers), frozenset(numbers), 7, rows)

    def all(self) -> Table:
        """Return all columns; an unreadable image has an error and no label.

        Where images may have several classes, the column "labels" has all that are answered.
        """
        numbers = tuple(f"{PROBABILITY}{name}" for name in self.classes)
        maps = () if self.heat_maps is None else ("heat_map",)
        scores = () if self.unfamiliar is None else (UNFAMILIAR_OUTPUT,)
        # Index -1 is the last one: no label.
        label_of = (*self.classes, None)

        def rows() -> Iterator[tuple[Cell, ...]]:
            labels = self.labels()
            answers = self.answers
            for place in self._places:
                name = self.names[place]
                reject = self.rejects.get(name)
                label: Cell = label_of[labels[place]]
                if answers is not None and not reject:
                    label = tuple(self.classes[c] for c in np.flatnonzero(answers[place]))
                yield (
                    _text(order.identity(name)),
                    _text(name),
                    label,
                    *self.probabilities[place].tolist(),
                    reject and one_line(": ".join(reject)),
                    *([self.heat_maps.get(name)] if maps else []),
                    *([None if reject else float(self.unfamiliar[place])] if scores else []),
                )

        title = "label" if self.answers is None else "labels"
        header = ("id", "name", title, *numbers, "error", *maps, *scores)
        return Table(header, frozenset((*numbers, *scores)), 9, rows)

    @property
    def _places(self) -> list[int]:
        """The positions of the files in the order of the rows."""
        place_of = {name: place for place, name in enumerate(self.names)}
        return [place_of[name] for name in order.ordered(self.names)]


def _text(text: str) -> str:
    """Return `text` with invalid UTF-8 escaped, as in file names of another encoding."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def heat_map_names(names: Sequence[str], limit: int) -> dict[str, str]:
    """Return the file name of the heat map by image name.

    Args:
        names: all images.
        limit: number of heat maps, for the first rows; 0 for all.
    """
    chosen = order.ordered(names)[: limit or None]
    digits = len(str(len(chosen)))
    return {
        name: f"{number:0{digits}d}-{_safe(order.identity(name))}.png"
        for number, name in enumerate(chosen, start=1)
    }


def _safe(text: str) -> str:
    """Return the first 80 characters, with those replaced that are unsafe in a file name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)[:80]
