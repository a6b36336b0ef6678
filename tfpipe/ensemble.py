"""Combines trained classifiers into one that later commands take as if it were a run.

    python -m tfpipe.ensemble --runs=runs/a,runs/b --method=mean --out=runs/ens

Members are runs, or cross-validations of runs (--folds), of which each counts as the mean of its
folds' logits. Their `predictions.csv` must be of the same images, by name and label. These are
combined, before the members' own calibrations, by

    mean        the mean of the probabilities
    geometric   the mean of the log-probabilities
    vote        the share of members whose most probable class it is; of equals the first counts
    blend       a weighted mean of the log-probabilities, of the lowest log loss
    stack       logistic regression on the members' logits

and the result is calibrated as a run is. The table compares them; what is fitted is measured by
cross-validation. The folder OUT holds the description of the ensemble, its calibration and its
predictions; the members stay where they are, and are refused if their weights change.
"""

import dataclasses
import math
import pathlib

from tfpipe.core import cli
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    runs: str = option("folders of the members, separated by commas")
    out: str = option("folder of the ensemble, for --run_dir of later commands")
    method: str = option("how to combine: mean, geometric, vote, blend or stack", "mean")
    l2: float = option("of stack: the weight of half the sum of squared coefficients", 1.0)
    calibration: str = option(
        "what makes the combined probabilities fit the held-out images, as of tfpipe.train",
        "auto",
        TrainConfig.__dataclass_fields__["calibration"].metadata["choices"],
    )
    overwrite: bool = option("replace an ensemble that is there", False)


def main(options: Options) -> None:
    """Runs the command; see the module's docstring."""
    if not 0 < options.l2 < math.inf:
        raise UserError(f"--l2={options.l2}: give a number above 0")

    from tfpipe.runs import ensemble

    ensemble.make(
        [folder.strip() for folder in options.runs.split(",")],
        pathlib.Path(options.out),
        method=options.method,
        l2=options.l2,
        calibration=options.calibration,
        replace=options.overwrite,
    )


if __name__ == "__main__":
    cli.run(main, Options)
