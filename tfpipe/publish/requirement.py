"""Bounds that a model must meet to be published, such as "log_loss<0.06,accuracy>0.98"."""

import math
import operator
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tfpipe.core.errors import UserError

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(rf"\s*(\w+)\s*(<=|>=|<|>)\s*({_NUMBER})\s*", re.ASCII)


class Requirement(NamedTuple):
    """A measure, a comparison such as "<", and a bound."""

    measure: str
    comparison: str
    bound: float

    def __str__(self):
        return f"{self.measure}{self.comparison}{self.bound:g}"


def parse(text: str) -> tuple[Requirement, ...]:
    """Read requirements separated by commas; raises UserError for anything else."""
    found = []
    for part in text.split(",") if text.strip() else ():
        match = _FORM.fullmatch(part)
        if match is None or not math.isfinite(float(match[3])):
            raise UserError(
                f"--require: {part.strip()!r} is no requirement: write a measure, one of"
                f" {', '.join(_COMPARISONS)}, and a number, as in log_loss<0.06",
                status=2,
            )
        found.append(Requirement(match[1], match[2], float(match[3])))
    return tuple(found)


def check(requirements: tuple[Requirement, ...], measures: Mapping[str, Any]) -> None:
    """Compare requirements with the measures of a model, from `tfpipe.evaluation.summary`.

    Raises:
        UserError: one is not reached, or there is no such measure.
    """
    known = {name: value for name, value in measures.items() if isinstance(value, float)}
    missed = []
    for each in requirements:
        if each.measure in measures.get("reasons", {}):
            raise UserError(
                f"not exported: {each} is required, and {each.measure} is undefined: it"
                f" {measures['reasons'][each.measure]}"
            )
        if each.measure not in known:
            raise UserError(
                f"--require: {each.measure!r} is not measured; known: {', '.join(sorted(known))}",
                status=2,
            )
        value = known[each.measure]
        if not _COMPARISONS[each.comparison](value, each.bound):
            missed.append(f"{each.measure} is {value:.6g}, and {each} is required")
    if missed:
        raise UserError(f"not exported: {'; '.join(missed)}: train on, or change --require")
