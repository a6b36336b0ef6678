"""The range test that chooses a learning rate: `--learning_rate=auto`.

The rate rises exponentially from step to step (Smith 2017, "Cyclical Learning Rates for Training
Neural Networks", arXiv:1506.01186, section 3.3). The chosen rate is a tenth of the one at which the
smoothed loss is least (Howard and Gugger 2020, "Deep Learning for Coders with fastai and PyTorch",
chapter 5). Range, smoothing and end are those of fastai, which that rule was made for.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.model.partition import Partition
from tfpipe.training.inputs import Inputs
from tfpipe.training.stages import Stage
from tfpipe.training.steps import Steps
from tfpipe.training.train_config import AUTO, TrainConfig

FILE = "learning_rate.json"  # in the run folder: the test of each stage, by its label

STEPS = 100
LOW, HIGH = 1e-7, 10.0  # the first and the last rate

_MOMENTUM = 0.98  # of the smoothed loss
_WORSE = 4  # times the least loss, where the test ends


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The smoothed loss, in nats, after a step at each rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def chosen(self) -> float:
        """A tenth of the rate of the least loss, of three digits."""
        return float(f"{self.rates[int(np.argmin(self.losses))] / 10:.3g}")

    def __str__(self) -> str:
        return (
            f"learning_rate={AUTO}: {self.chosen:g}, a tenth of the rate with the least loss in"
            f" {len(self.rates)} steps from {LOW:g} to {self.rates[-1]:.3g}"
        )


def measure(
    stage: Stage,
    prepare: Callable[[Stage], Steps],
    split: Partition,
    inputs: Inputs,
    *,
    first_epoch: int,
) -> RangeTest:
    """Train a stage with rising rates, and set its weights back.

    The optimizer is a new one, and `Steps` seeds the random layers anew. So a training behind the
    test is the same as without it. Each step is an update, without averages or a schedule.

    Args:
        stage: with any learning rate.
        prepare: returns the steps of the stage with other options, from its first weights on.
        split: of the stage.
        inputs: of the stage.
        first_epoch: whose batches come first.

    Raises:
        UserError: the loss falls at no rate.
    """
    plain = {"schedule": "constant", "warmup_epochs": 0.0, "accumulate_steps": 1, "average": "none"}
    tested = _with(stage, learning_rate=1.0, **plain)  # times the rates of the test
    steps = prepare(tested)
    weights = split.trained.get_weights()
    last = first_epoch + math.ceil(STEPS / inputs.steps)
    with contextlib.closing(inputs.training(first_epoch, 0, last)) as batches:
        test = smoothed(steps.sweep(batches, _rates()))
    split.trained.set_weights(weights)
    return test


def smoothed(losses: Iterable[float]) -> RangeTest:
    """Return the test of the losses of its steps, which it takes as long as they are of use.

    Raises:
        UserError: the loss falls at no rate.
    """
    mean, kept = 0.0, []
    for number, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            break
        mean = _MOMENTUM * mean + (1 - _MOMENTUM) * loss
        kept.append(mean / (1 - _MOMENTUM**number))
        if kept[-1] > _WORSE * min(kept):
            break
    if len(kept) < 2 or np.argmin(kept) == 0:
        raise UserError(
            f"`learning_rate={AUTO}`: the loss falls at no rate from {LOW:g} to {HIGH:g}: give a"
            " rate, and look at the labels and at `augment`"
        )
    return RangeTest(_rates()[: len(kept)], tuple(kept))


def _rates() -> tuple[float, ...]:
    return tuple(np.geomspace(LOW, HIGH, STEPS).tolist())


def load(folder: pathlib.Path) -> dict[str, RangeTest]:
    """Return the tests of a run's stages by their labels; raise UserError if they are damaged."""
    path = folder / FILE
    if not path.is_file():
        return {}
    hint = "train again in another `run_dir`"
    saved = storage.read_json(path, what="the range test of a learning rate", hint=hint)
    try:
        return {
            label: RangeTest(tuple(test["rates"]), tuple(test["losses"]))
            for label, test in saved.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {hint}") from None


def save(folder: pathlib.Path, stage: Stage, test: RangeTest) -> None:
    """Add the test of a stage to those of the run."""
    every = load(folder) | {stage.label: test}
    saved = {
        label: {"learning_rate": each.chosen, **dataclasses.asdict(each)}
        for label, each in every.items()
    }
    storage.write_json(folder / FILE, saved)


def resolved(folder: pathlib.Path, stage: Stage) -> Stage:
    """Return the stage with the rate of its range test; unchanged if it has a rate, or no test."""
    if stage.config.learning_rate != AUTO or stage.label not in (tests := load(folder)):
        return stage
    return _with(stage, learning_rate=tests[stage.label].chosen)


def provisional(config: TrainConfig) -> TrainConfig:
    """Return a stage's options with some rate in place of "auto", to check the others.

    Raises:
        UserError: the backbones have a rate of their own, which the test would not know.
    """
    if config.learning_rate != AUTO:
        return config
    own = config.backbone_learning_rate.partition("*")[0]
    with contextlib.suppress(ValueError):  # `update.check` explains it
        if float(own):
            raise UserError(
                f"`backbone_learning_rate={config.backbone_learning_rate}`: with"
                f" `learning_rate={AUTO}` all layers are tested together: give 0, or 0*0.75 for a"
                " decay by block"
            )
    return dataclasses.replace(config, learning_rate=1.0)


def _with(stage: Stage, **options: Any) -> Stage:
    return dataclasses.replace(stage, config=dataclasses.replace(stage.config, **options))
