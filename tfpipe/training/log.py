"""Results of each epoch: a line of `log.csv`, and a line and a table for people."""

import csv
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line

LOG = "log.csv"


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One line of the log; a field is a column.

    `loss` is what the training minimises; `val_loss` is always the cross-entropy in nats, with
    several sigmoids the mean of theirs. `accuracy` is the share of images whose class, or whose
    classes at probability 0.5, are right.
    `learning_rate` is the rate at the end of the epoch. `input_wait` is the share of the training
    time spent waiting for batches. `cost` is what the best epoch has least of: the
    validation loss, or the metric of `--monitor`, negative if higher is better; NaN in older logs.
    """

    epoch: int
    stage: str
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_s: float
    input_wait: float
    seconds: float
    cost: float = math.nan

    @property
    def figures(self) -> dict[str, float]:
        """The columns that are results, by name."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ("epoch", "stage")}

    def __str__(self) -> str:
        speed = (
            f"  {self.images_per_s:,.0f} images/s  input wait {self.input_wait:.0%}"
            f"  {self.seconds:.1f} s"
        )
        return (
            f"loss {self.loss:.4f}  accuracy {self.accuracy:.4f}  val_loss {self.val_loss:.4f}"
            f"  val_accuracy {self.val_accuracy:.4f}{speed if self.seconds >= 1 else ''}"
        )


def best(epochs: Sequence[Epoch]) -> Epoch:
    """Return the first epoch of the lowest cost."""
    return min(epochs, key=lambda each: each.val_loss if math.isnan(each.cost) else each.cost)


def read(folder: pathlib.Path) -> list[Epoch]:
    """Read the `log.csv` of a run folder, if there is one; raise UserError if it is damaged."""
    path = folder / LOG
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in dataclasses.fields(Epoch)}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                Epoch(**{name: kinds[name](value) for name, value in row.items()})
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): train again") from None


def show(epochs: Sequence[Epoch]) -> None:
    """Print a table with the best epoch of each stage."""
    rows = []
    for name, group in itertools.groupby(epochs, lambda epoch: epoch.stage):
        own = list(group)
        chosen = best(own)
        seconds = sum(epoch.seconds for epoch in own)
        figures = (f"{v:.4f}" for v in (chosen.loss, chosen.val_loss, chosen.val_accuracy))
        rows.append([name, len(own), chosen.epoch, *figures, f"{seconds:,.0f} s"])
    if rows:
        columns = ["stage", "epochs", "best", "loss", "val_loss", "val_accuracy", "time"]
        terminal.show_table("training", columns, rows)
