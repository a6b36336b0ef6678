"""Stages of a training: the layers that each trains, and its own options.

    --stages="head:epochs=5,lr=1e-3,patience=3; top2:from=block13,lr=1e-4; all:from=all,lr=1e-5"

Each stage starts from the weights of the best epoch of the stage before.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Sequence

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.model.partition import ALL, HEAD
from tfpipe.training.train_config import TrainConfig

FROM = "from"

# Options that a stage may set for itself. The others are the same for all stages.
OWN = (
    *("epochs", "patience", "batch_size"),
    *("optimizer", "learning_rate", "backbone_learning_rate"),
    *("schedule", "warmup_epochs", "weight_decay", "clip_norm", "accumulate_steps", "average"),
    *("batch_norm", "augment", "feature_views", "loss", "label_smoothing", "focal_gamma"),
    *("sampling", "image_size"),
)
# Short names of options.
SHORT = {"lr": "learning_rate", "backbone_lr": "backbone_learning_rate"}

_HOW = (
    "write NAME:KEY=VALUE,KEY=VALUE;NAME:... with the keys from (head, all, or a layer or block),"
    f" lr, backbone_lr, {', '.join(OWN)}"
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage, which trains the layers from a place of `partition.partition` on."""

    index: int  # from 0
    name: str
    start: str
    config: TrainConfig  # with the stage's own values

    @property
    def label(self) -> str:
        """Name of the stage's files."""
        return f"{self.index + 1}-{self.name}"


def parse(config: TrainConfig) -> tuple[Stage, ...]:
    """Return the stages of the option `stages`; raise UserError if it is wrong."""
    texts = [text.strip() for text in spec.split(config.stages, ";")]
    stages = tuple(_stage(index, text, config) for index, text in enumerate(texts))
    names = [stage.name for stage in stages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"`stages`: two stages are named {twice}: give each its own name")
    return stages


def earliest(stages: Sequence[Stage]) -> str:
    """Return the earliest start among the first stage and all later ones with the same images.

    It is a place for `partition.partition`, at or before the first stage's in every backbone.
    """
    first = stages[0]

    def images(stage: Stage) -> tuple[str, int, str]:
        return stage.config.augment, stage.config.feature_views, stage.config.image_size

    alike = [each.start for each in stages if images(each) == images(first)]
    places = [start for start in dict.fromkeys(alike) if start not in (HEAD, ALL)]
    if first.start == ALL or not places:
        return first.start
    return "+".join(places)


def _stage(index: int, text: str, config: TrainConfig) -> Stage:
    name, _, rest = text.partition(":")
    name = name.strip()
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"`stages`: {text!r} does not begin with a name of letters: {_HOW}")
    values, start = {}, HEAD
    for pair in spec.split(rest, ",") if rest.strip() else []:
        key, equals, value = (part.strip() for part in pair.partition("="))
        key = SHORT.get(key, key)
        if key == FROM and value:
            start = value
        elif equals and key in OWN and key not in values:
            values[key] = read_value(key, value, f"`stages`: {name}:{pair.strip()}")
        else:
            raise UserError(f"`stages`: {name}: cannot take {pair.strip()!r}: {_HOW}")
    return Stage(index, name, start, dataclasses.replace(config, **values))


def read_value(key: str, text: str, where: str) -> str | int | float | bool | None:
    """Read the value of an option of a training; raise UserError that begins with `where`."""
    field = {field.name: field for field in dataclasses.fields(TrainConfig)}[key]
    choices, words = field.metadata["choices"], field.metadata["words"]
    kinds = typing.get_args(field.type) or (field.type,)
    if choices and text not in choices:
        raise UserError(f"{where} is not one of {', '.join(choices)}")
    if text in words:
        return text
    if not text and type(None) in kinds:
        return None
    kind = kinds[0]
    try:
        value = {"true": True, "false": False}[text] if kind is bool else kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (ValueError, KeyError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise UserError(f"{where} is not {' or '.join([wanted, *words])}") from None
    for bound, word in (("lower_bound", "least"), ("upper_bound", "most")):
        limit = field.metadata["bounds"][bound]
        if limit is not None and (value < limit if word == "least" else value > limit):
            raise UserError(f"{where} is out of range: give at {word} {limit:g}")
    return value
