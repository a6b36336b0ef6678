"""The published recipes of `configs/` with their results, from `published_recipes.json`."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from tfpipe.reporting.target import ReportTarget
from tfpipe.training.train_config import TrainConfig

FILE = pathlib.Path(__file__).parent / "published_recipes.json"
CLASSES = ("cat", "dog")

_FREE = ("epochs", "patience", "weights")  # options in which a run may differ from its recipe


@dataclasses.dataclass(frozen=True)
class PublishedRecipe:
    """A published classifier.

    Attributes:
        recipe: the name of its flagfile in `configs/`.
        title: for people.
        log_loss: on its validation images; None if not published.
        accuracy: on its validation images; None if not published.
        kaggle: the log loss on Kaggle's test images; None if not published.
        options: the options in the flagfile; all others have their defaults.
    """

    recipe: str
    title: str
    log_loss: float | None
    accuracy: float | None
    kaggle: float | None
    options: dict[str, Any]


@functools.cache
def recipes() -> tuple[PublishedRecipe, ...]:
    """Return all published recipes."""
    return tuple(PublishedRecipe(**each) for each in json.loads(FILE.read_text(encoding="utf-8")))


def followed(config: TrainConfig) -> PublishedRecipe | None:
    """Return the recipe that a run follows, except for `_FREE`; None if none."""
    if config.folds or config.fold >= 0:
        return None
    names = {name for each in recipes() for name in each.options} - set(_FREE)
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for each in recipes():
        expected = {name: each.options.get(name, defaults[name]) for name in names}
        if all(getattr(config, name) == value for name, value in expected.items()):
            return each
    return None


def is_comparable(target: ReportTarget) -> bool:
    """Return whether a target classifies cats and dogs, as the recipes do."""
    return tuple(name.casefold().rstrip("s") for name in target.classes) == CLASSES
