"""The space of a search: options of a training, and the values that a trial may draw for each.

    learning_rate=log(1e-4,1e-1);head=norm,dropout(uniform(0,0.7));backbones=mobilenet,(mobilenet,xception)

A value is a text with numbers to draw in it. So one rule serves a plain number, a parameter of a
head layer or of an augmentation, and a place in a backbone.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.training import stages
from tfpipe.training.train_config import TrainConfig

if TYPE_CHECKING:
    from optuna.trial import Trial

# For a head on frozen features.
DEFAULT = (
    "learning_rate=log(1e-4,1e-1);weight_decay=0,log(1e-4,1e-1);"
    "head=dropout(uniform(0,0.7)),norm,norm|dropout(uniform(0,0.7)),"
    "dense(64)|dropout(uniform(0,0.7)),norm|dense(64)|dropout(uniform(0,0.7))"
)

# Options that decide which images a trial is measured on, or where and how it runs.
_FIXED = (
    *("records", "run_dir", "train_split", "val_split", "folds", "fold", "limit", "monitor"),
    *("minutes", "describe", "profile", "strategy", "data_service"),
    *("feature_cache", "feature_gb", "checkpoint_minutes", "max_corrupt"),
)
_RANGE = re.compile(r"\b(log|uniform|int)\(\s*([^(),\s]+)\s*,\s*([^(),\s]+)\s*\)")
_HOW = (
    "write OPTION=VALUE,VALUE;OPTION=..., with log(LOW,HIGH), uniform(LOW,HIGH) or int(LOW,HIGH)"
    " for a number to draw, and parentheses around a value with commas or semicolons"
)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers to draw from: by their logarithm, uniformly, or whole ones."""

    kind: str  # "log", "uniform" or "int"
    low: float
    high: float

    def draw(self, trial: "Trial", name: str) -> str:
        """Draw a number for a trial of Optuna, as text."""
        if self.kind == "int":
            return self.text(trial.suggest_int(name, int(self.low), int(self.high)))
        return self.text(trial.suggest_float(name, self.low, self.high, log=self.kind == "log"))

    def text(self, number: float) -> str:
        """Return a number of the range as text: a whole one, or one of 4 digits."""
        return str(int(number)) if self.kind == "int" else f"{number:.4g}"


@dataclasses.dataclass(frozen=True)
class Dimension:
    """An option, and the texts that it may have: each with numbers to draw in it."""

    option: str
    templates: tuple[str, ...]

    def draw(self, trial: "Trial") -> str:
        """Draw the option's value for a trial of Optuna."""
        template = self.templates[0]
        if len(self.templates) > 1:
            template = trial.suggest_categorical(self.option, self.templates)
        prefix = f"{self.option} {self.templates.index(template) + 1}"
        names = (f"{prefix}.{number}" for number in itertools.count(1))
        return _RANGE.sub(lambda found: _range(found).draw(trial, next(names)), template)


@dataclasses.dataclass(frozen=True)
class Space:
    """The options that a search draws; all others are those of the base."""

    dimensions: tuple[Dimension, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(each.option for each in self.dimensions)

    def draw(self, trial: "Trial") -> dict[str, str]:
        """Draw the options of a trial of Optuna, as texts."""
        return {each.option: each.draw(trial) for each in self.dimensions}


def with_options(base: TrainConfig, texts: Mapping[str, str]) -> TrainConfig:
    """Return the base with other options, given as texts; raise UserError for a wrong one."""
    values = {
        name: stages.read_value(name, text, f"`space`: {name}={text}")
        for name, text in texts.items()
    }
    return dataclasses.replace(base, **values)


def parse(text: str, base: TrainConfig) -> Space:
    """Read the option `space`; empty for the default.

    Raises:
        UserError: it is wrong, or names an option that changes nothing in the stages of `base`.
    """
    parts = [part.strip() for part in spec.split(text.strip() or DEFAULT, ";")]
    dimensions = tuple(_dimension(part) for part in parts if part)
    names = [each.option for each in dimensions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"`space`: {twice} is there twice: {_HOW}")
    if all(len(d.templates) == 1 and not _RANGE.search(d.templates[0]) for d in dimensions):
        raise UserError(f"`space={text}` has nothing to draw: {_HOW}")
    if base.limit and "seed" in names:
        raise UserError(
            f"`space`: seed draws the records of `limit={base.limit}`, so trials would be measured"
            " on other images than the base: leave out one of both"
        )
    for each in dimensions:
        _check(each, base, names)
    return Space(dimensions)


def _dimension(text: str) -> Dimension:
    name, equals, values = (part.strip() for part in text.partition("="))
    name = stages.SHORT.get(name, name)
    wrong = ""
    if not equals:
        wrong = "has no values"
    elif name in _FIXED:
        wrong = "stays the same in a search"
    elif name not in (field.name for field in dataclasses.fields(TrainConfig)):
        wrong = "is no option of a training"
    if wrong:
        raise UserError(f"`space`: {text!r} {wrong}: {_HOW}")
    texts = [_bare(each.strip()) for each in spec.split(values, ",")]
    if len(set(texts)) < len(texts):
        raise UserError(f"`space`: {name} has a value twice")
    return Dimension(name, tuple(texts))


def _bare(text: str) -> str:
    """Return a value without the parentheses around the whole of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depths = itertools.accumulate((c == "(") - (c == ")") for c in text)
    return text[1:-1].strip() if 0 not in list(depths)[:-1] else text


def _range(found: re.Match) -> Range:
    kind, low, high = found.groups()
    try:
        low, high = (int(each) if kind == "int" else float(each) for each in (low, high))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        kinds = "whole numbers" if kind == "int" else "numbers"
        raise UserError(f"`space`: {found[0]}: give two {kinds}, the lower one first")
    if kind == "log" and low <= 0:
        raise UserError(f"`space`: {found[0]}: log needs numbers above 0")
    return Range(kind, low, high)


def _check(dimension: Dimension, base: TrainConfig, names: Sequence[str]) -> None:
    """Raise UserError unless every value of an option can be read, and reaches a stage."""
    name = dimension.option
    for template in dimension.templates:
        ranges = [_range(found) for found in _RANGE.finditer(template)]
        for ends in ([each.low for each in ranges], [each.high for each in ranges]):
            texts = (each.text(end) for each, end in zip(ranges, ends, strict=True))
            filled = _RANGE.sub(lambda found, texts=texts: next(texts), template)
            with_options(base, {name: filled})
    if name in stages.OWN and "stages" not in names:
        value = getattr(base, name)
        other = value + ("+" if isinstance(value, str) else 1)
        changed = stages.parse(dataclasses.replace(base, **{name: other}))
        if all(getattr(stage.config, name) != other for stage in changed):
            raise UserError(
                f"`space`: {name} changes nothing, because each stage of `stages={base.stages}` has"
                " its own: leave it out there, or put `stages` into the space"
            )
