"""One finished trial of a search, and how it compares with the base."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from tfpipe.core import storage
from tfpipe.evaluation import compare
from tfpipe.evaluation.metrics import LabeledPredictions, metrics
from tfpipe.runs import predictions_file
from tfpipe.training import log

LOG_LOSS = "log_loss"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trained trial, measured on the validation images with its own calibration; or a failed one.

    Attributes:
        number: from 1; 0 for the base.
        options: what the search drew, as texts by option.
        value: the metric that the search improves; None if the trial failed.
        accuracy: of the same images.
        difference: the value minus that of the base.
        interval: 95 % bounds of the difference, over samples of the images; None if undefined.
        epochs: trained.
        seconds: that it took; of its epochs for the base.
        error: why it failed; "" if it did not.
    """

    number: int
    options: dict[str, str]
    value: float | None = None
    accuracy: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Trial":
        """Read what `dataclasses.asdict` made, after JSON."""
        interval = saved["interval"]
        return cls(**saved | {"interval": interval and tuple(interval)})


def predictions(folder: pathlib.Path) -> LabeledPredictions:
    """Return the predictions of the validation images, from a run's folder."""
    found = predictions_file.read(folder / "predictions.csv")
    return LabeledPredictions(found["probabilities"], found["label"])


def measure(
    number: int,
    options: dict[str, str],
    folder: pathlib.Path,
    metric: str,
    base: LabeledPredictions | None = None,
) -> Trial:
    """Measure a trained run, and compare it with the predictions of the base if they are given."""
    found = predictions(folder)
    epochs = log.read(folder)
    trial = Trial(
        number,
        options,
        metrics[metric].value(found),
        metrics["accuracy"].value(found),
        epochs=len(epochs),
        seconds=sum(epoch.seconds for epoch in epochs),
    )
    if base is None:
        return trial
    compared = compare.compare(found, base)["measures"][metric]
    return dataclasses.replace(
        trial, difference=compared["difference"], interval=compared["interval"]
    )


def write_csv(path: pathlib.Path, trials: Sequence[Trial], metric: str) -> None:
    """Write a row for the base and each trial, in their order, with a column for each option."""
    options = list(dict.fromkeys(name for trial in trials for name in trial.options))
    columns = ["trial", metric, "accuracy", "difference", "low", "high", "epochs", "seconds"]
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *options, "error"])
        for each in trials:
            low, high = each.interval or (None, None)
            figures = each.value, each.accuracy, each.difference, low, high
            own = (each.options.get(name) for name in options)
            length = each.epochs, f"{each.seconds:.1f}"
            writer.writerow([each.number, *figures, *length, *own, each.error])
