"""All answers of a prediction in their order, as the columns that a format writes."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfpipe.core.errors import one_line
from tfpipe.predictions import order

# Column names; a class's probability is in PROBABILITY followed by its name.
PROBABILITY = "probability_"

Cell = str | float | None


@dataclasses.dataclass(frozen=True)
class Table:
    """What is written, without its form.

    Attributes:
        header: names of the columns; those of numbers are in `numbers`.
        numbers: the columns of probabilities, float32; all others are text.
        digits: significant digits of a number that is written as text.
        rows: makes an iterator of the rows.
    """

    header: tuple[str, ...]
    numbers: frozenset[str]
    digits: int
    rows: Callable[[], Iterator[tuple[Cell, ...]]]

    def __iter__(self) -> Iterator[tuple[Cell, ...]]:
        return self.rows()


@dataclasses.dataclass(frozen=True)
class Answers:
    """What is known of each image, in the order of the names.

    Attributes:
        names: of the images, readable or not.
        classes: names in the order of their probabilities.
        probabilities: float32 [n, C]; the prior for an image that cannot be read.
        rejects: (reason, detail) by the number of the image, of those that cannot be read.
        passed_over: (name, reason, detail) of the files that are no images here.
        heat_maps: the path of the heat map by the number of the image; None if none are drawn.
        threshold: of two classes, the probability of the second from which an image is of it; None
            for the more probable class.
    """

    names: Sequence[str]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    rejects: Mapping[int, tuple[str, str]]
    passed_over: Sequence[tuple[str, str, str]] = ()
    heat_maps: Mapping[int, str] | None = None
    threshold: float | None = None

    def without(self, places: Iterable[int]) -> "Answers":
        """Returns the answers with some of the rejects passed over, by their numbers."""
        gone = set(places)
        kept = [place for place in range(len(self.names)) if place not in gone]
        number_of = {place: number for number, place in enumerate(kept)}
        maps = self.heat_maps
        return dataclasses.replace(
            self,
            names=[self.names[place] for place in kept],
            probabilities=self.probabilities[kept],
            rejects={number_of[p]: why for p, why in self.rejects.items() if p not in gone},
            passed_over=sorted(
                [*self.passed_over, *((self.names[p], *self.rejects[p]) for p in gone)]
            ),
            heat_maps=maps and {number_of[place]: path for place, path in maps.items()},
        )

    def labels(self) -> np.ndarray:
        """Returns the class of each image, int [n]; of one that cannot be read -1."""
        if self.threshold is None:
            found = self.probabilities.argmax(1)
        else:  # in float64, for a threshold may lie between two float32 that are neighbours
            found = (self.probabilities[:, 1].astype(np.float64) >= self.threshold).astype(np.int64)
        found[list(self.rejects)] = -1
        return found

    def count(self) -> dict[str, int]:
        """Returns how many images are of each class; those that cannot be read are of none."""
        found = self.labels()
        counts = np.bincount(found[found >= 0], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def kaggle(self) -> Table:
        """Returns what Kaggle takes: the id and P(second class), or of more classes each."""
        two = len(self.classes) == 2
        numbers = ("label",) if two else self.classes

        def rows() -> Iterator[tuple[Cell, ...]]:
            for place in self._places:
                row = self.probabilities[place].tolist()
                yield _text(order.identity(self.names[place])), *(row[1:] if two else row)

        return Table(("id", *numbers), frozenset(numbers), 7, rows)

    def all(self) -> Table:
        """Returns all that is known; of an image that cannot be read why, and no label."""
        numbers = tuple(f"{PROBABILITY}{name}" for name in self.classes)
        maps = () if self.heat_maps is None else ("heat_map",)
        # None for -1, which is the last one.
        label_of = (*self.classes, None)

        def rows() -> Iterator[tuple[Cell, ...]]:
            labels = self.labels()
            for place in self._places:
                name, reject = self.names[place], self.rejects.get(place)
                yield (
                    _text(order.identity(name)),
                    _text(name),
                    label_of[labels[place]],
                    *self.probabilities[place].tolist(),
                    reject and one_line(": ".join(reject)),
                    *([self.heat_maps.get(place)] if maps else []),
                )

        header = ("id", "name", "label", *numbers, "error", *maps)
        return Table(header, frozenset(numbers), 9, rows)

    @property
    def _places(self) -> list[int]:
        """The numbers of the files in the order of the rows."""
        place_of = {name: place for place, name in enumerate(self.names)}
        return [place_of[name] for name in order.ordered(self.names)]


def _text(text: str) -> str:
    """Returns `text` with what is not UTF-8 escaped, as of a file name in another encoding."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def heat_map_names(names: Sequence[str], limit: int) -> dict[str, str]:
    """Returns the file names of heat maps by the name of each image that gets one.

    Args:
        names: of all images.
        limit: how many get one, the first ones in the order of the rows; 0 for all.
    """
    chosen = order.ordered(names)[: limit or None]
    digits = len(str(len(chosen)))
    return {
        name: f"{number:0{digits}d}-{_safe(order.identity(name))}.png"
        for number, name in enumerate(chosen, start=1)
    }


def _safe(text: str) -> str:
    """Returns the beginning of a text without what a file name should not have."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)[:80]
