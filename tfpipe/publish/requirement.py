"""Bounds that a model must meet to be published, such as "log_loss<0.06,accuracy>0.98"."""

import operator
import re
from collections.abc import Mapping
from typing import NamedTuple

from tfpipe.core.errors import UserError

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")


class Requirement(NamedTuple):
    """A measure, a comparison such as "<", and a bound."""

    measure: str
    comparison: str
    bound: float

    def __str__(self):
        return f"{self.measure}{self.comparison}{self.bound:g}"


def parse(text: str) -> tuple[Requirement, ...]:
    """Read requirements separated by commas; blank means none.

    Raises:
        UserError: one of them is not a name, a comparison and a number.
    """
    found = []
    for part in text.split(",") if text.strip() else ():
        match = _FORM.fullmatch(part)
        try:
            measure, comparison, bound = match.groups()
            found.append(Requirement(measure, comparison, float(bound)))
        except (AttributeError, ValueError):
            raise UserError(
                f"--require: {part.strip()!r} is no requirement: write a measure, one of"
                f" {', '.join(_COMPARISONS)}, and a number, as in log_loss<0.06",
                status=2,
            ) from None
    return tuple(found)


def check(requirements: tuple[Requirement, ...], measures: Mapping[str, object]) -> None:
    """Compare measures with what is required.

    Args:
        requirements: from `parse`.
        measures: of the model, by name, as `measure.summary` gives them.

    Raises:
        UserError: one is not reached, or there is no such measure.
    """
    undefined = measures.get("reasons", {})
    numbers = {name: value for name, value in measures.items() if isinstance(value, float)}
    missed = []
    for each in requirements:
        if (reason := undefined.get(each.measure)) is not None:
            raise UserError(
                f"not exported: {each} is required, and {each.measure} is undefined: it {reason}"
            )
        if each.measure not in numbers:
            raise UserError(
                f"--require: {each.measure!r} is not measured; known: {', '.join(sorted(numbers))}",
                status=2,
            )
        value = numbers[each.measure]
        if not _COMPARISONS[each.comparison](value, each.bound):
            missed.append(f"{each.measure} is {value:.6g}, and {each} is required")
    if missed:
        raise UserError(f"not exported: {'; '.join(missed)}: train on, or change --require")
