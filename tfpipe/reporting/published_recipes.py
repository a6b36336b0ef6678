"""The published recipes of `configs/` and their results, from `published.json`."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from tfpipe.reporting.subject import Subject
from tfpipe.training.config import TrainConfig

FILE = pathlib.Path(__file__).parent / "published.json"
CLASSES = ("cat", "dog")

# What a recipe names and a run of it may have otherwise.
_FREE = ("epochs", "patience", "weights")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published classifier.

    Attributes:
        recipe: the name of its flagfile in `configs/`.
        title: for people.
        log_loss: on its validation images; None if none was published.
        accuracy: likewise.
        kaggle: the log loss on Kaggle's test images, likewise.
        options: what the flagfile sets; all others are the defaults.
    """

    recipe: str
    title: str
    log_loss: float | None
    accuracy: float | None
    kaggle: float | None
    options: dict[str, Any]


@functools.cache
def recipes() -> tuple[Recipe, ...]:
    """Returns all of them."""
    return tuple(Recipe(**each) for each in json.loads(FILE.read_text(encoding="utf-8")))


def of(config: TrainConfig) -> Recipe | None:
    """Returns the recipe that a run follows, however long and from which weights; None if none."""
    if config.folds or config.fold >= 0:
        return None
    names = {name for each in recipes() for name in each.options} - set(_FREE)
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for each in recipes():
        expected = {name: each.options.get(name, defaults[name]) for name in names}
        if all(getattr(config, name) == value for name, value in expected.items()):
            return each
    return None


def fits(subject: Subject) -> bool:
    """Returns whether results of the recipes say anything of a subject's data: cats and dogs."""
    return tuple(name.casefold().rstrip("s") for name in subject.classes) == CLASSES
