"""Units of images that stay together, moved between parts until each has its share of each class.

    number of a unit     0 ........ val's interval begins at 0.8 .... 1
    units of a class     a   b  c        d    e | f           g          cut here by chance,
    too few in val       a   b  c        d  | e   f           g          and here by the rule

Which units move does not depend on the order of images or classes, only on numbers and names.
"""

import numpy as np

# How far a part's share of a class may be from its fraction: 2 percentage points.
TOLERANCE = 0.02

# A part without any of a class weighs more than any number of images too few or too many, and a
# training part without any more than any number of such parts.
_EMPTY, _UNTRAINED = 2**40, 2**60


class Units:
    """The units and their parts; a unit is a set of images that stay together.

    Attributes:
        part: int64 [units], the index of the part of each unit.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        units: np.ndarray,
        classes: np.ndarray,
        fractions: np.ndarray,
        training: int | None,
    ):
        """Put each unit into the part of its number.

        Args:
            numbers: float64 [units] in [0, 1].
            units: int [memberships], the unit of an image for each of its classes.
            classes: int [memberships], the class.
            fractions: float64 [parts].
            training: the part that needs an image of every class; None for no such part.
        """
        ends = np.cumsum(fractions)
        self._numbers, self._starts, self._ends = numbers, ends - fractions, ends
        self._training = training
        # The fractions may sum to a little less than 1; the rest belongs to the last part.
        part = np.minimum(np.searchsorted(ends, numbers, side="right"), len(ends) - 1)
        # A holding is the images of one class in one unit; holdings are sorted by unit.
        holdings, images = np.unique(units * (classes.max() + 1) + classes, return_counts=True)
        unit, label = np.divmod(holdings, classes.max() + 1)
        del holdings
        counts = np.zeros((classes.max() + 1, len(fractions)), np.int64)
        np.add.at(counts, (label, part[unit]), images)
        low, high = _bounds(counts.sum(1), np.bincount(label), fractions, training)
        by_class = np.argsort(label, kind="stable")
        self._members = np.split(unit[by_class], np.cumsum(np.bincount(label))[:-1])
        self._bad = np.flatnonzero(((counts < low) | (counts > high)).any(1)).tolist()
        self.part = part
        # Single elements of arrays are slow, those of lists and of views of memory are not.
        self._counts, self._low, self._high = counts.tolist(), low.tolist(), high.tolist()
        self._first = memoryview(np.searchsorted(unit, np.arange(len(numbers) + 1)))
        self._part, self._label, self._images = map(memoryview, (part, label, images))

    def rebalance(self) -> None:
        """Move units until every part has its share of each class, or no move helps.

        Every move lowers a sum of positive integers, so the loop ends.
        """
        while self._bad:
            moved = [self._rebalance_class(label) for label in self._bad]
            if not any(moved):
                return
            # The move of a unit of several classes may harm another class.
            self._bad = [c for c in range(len(self._counts)) if self._off(c)]

    def _rebalance_class(self, label: int) -> bool:
        """Move units of a class until its shares are right or no move helps; return if any did."""
        moved = False
        while self._off(label) and self._move_nearest(label):
            moved = True
        return moved

    def _move_nearest(self, label: int) -> bool:
        """Try each move of a class once, the nearest first; make those that help."""
        units, counts = self._members[label], np.array(self._counts[label])
        here = self.part[units]
        full, short = counts > self._high[label], counts < self._low[label]
        row, to = np.nonzero(full[here][:, None] | short)
        unit = units[row]
        below, above = self._starts[to] - self._numbers[unit], self._numbers[unit] - self._ends[to]
        order = np.lexsort((to, unit, np.maximum(below, above)))
        moved = False
        for u, t in zip(unit[order].tolist(), to[order].tolist(), strict=True):
            if self._gain(u, t) > 0:
                self._move(u, t)
                moved = True
                if not self._off(label):
                    break
        return moved

    def _holdings(self, unit: int) -> range:
        return range(self._first[unit], self._first[unit + 1])

    def _gain(self, unit: int, to: int) -> int:
        """Return by how much a move lowers the parts' excess."""
        source, gain = self._part[unit], 0
        if source == to:
            return 0
        for i in self._holdings(unit):
            label, images = self._label[i], self._images[i]
            for part, change in ((source, -images), (to, images)):
                now = self._counts[label][part]
                gain += self._excess(label, part, now) - self._excess(label, part, now + change)
        return gain

    def _move(self, unit: int, to: int) -> None:
        for i in self._holdings(unit):
            self._counts[self._label[i]][self._part[unit]] -= self._images[i]
            self._counts[self._label[i]][to] += self._images[i]
        self._part[unit] = to

    def _off(self, label: int) -> bool:
        return any(self._excess(label, part, n) for part, n in enumerate(self._counts[label]))

    def _excess(self, label: int, part: int, count: int) -> int:
        """Return by how many images of a class a part has too many or too few."""
        if count > self._high[label][part]:
            return count - self._high[label][part]
        if count < self._low[label][part]:
            empty = _UNTRAINED if part == self._training else _EMPTY
            return self._low[label][part] - count + (0 if count else empty)
        return 0


def _bounds(
    images: np.ndarray, units: np.ndarray, fractions: np.ndarray, training: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the most images of each class that each part may have.

    Both include the tolerance, and rounding down and up. So if every unit is one image, there is a
    partition within the bounds, and single moves lead to it.

    Args:
        images: int [classes], the number of images.
        units: int [classes], the number of units.
        fractions: float64 [parts].
        training: the part that needs an image of every class; None for no such part.

    Returns:
        Two int64 arrays [classes, parts].
    """
    images = images[:, None]
    parts = len(fractions)
    exact = images * fractions
    # At least one for each part if there are enough units; larger parts give in proportion.
    above = np.maximum(exact - 1, 0)
    room = np.maximum(above.sum(1, keepdims=True), 1e-9)
    enough = units[:, None] >= parts
    exact = np.where(enough, 1 + above * ((images - parts) / room), exact).round(6)
    slack = TOLERANCE * images
    low = np.minimum(np.floor(exact), np.ceil((exact - slack).round(6)))
    high = np.maximum(np.ceil(exact), np.floor((exact + slack).round(6)))
    low = np.maximum(low, enough)
    if training is not None:
        low[:, training] = np.maximum(low[:, training], 1)
    return low.astype(np.int64), np.maximum(low, high).astype(np.int64)
