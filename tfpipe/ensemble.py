"""Combine trained classifiers into an ensemble, which later commands take as a run.

    tfpipe ensemble --runs=runs/a,runs/b --method=mean --out=runs/ens

Members are runs, or cross-validations of runs (--folds), which count as the log-opinion pool of
their folds. Their `predictions.csv` must be of the same images, by name and label. Their logits
before calibration are combined by

    mean        soft voting: the mean of the probabilities (linear opinion pool)
    geometric   log-opinion pool: the mean of the log-probabilities
    vote        hard voting: the share of members whose most probable class it is
    blend       weighted average of the log-probabilities, with the lowest log loss
    stack       stacking: logistic regression on the members' logits

The result is calibrated as a run is. The table compares the methods; fitted ones are measured by
cross-validation. The folder OUT holds the ensemble's members and parameters, its calibration and
its predictions. The members stay in their folders; the ensemble is refused if their weights change.
"""

import dataclasses
import math
import pathlib

from tfpipe.core import cli
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    runs: str = option("folders of the members, separated by commas")
    out: str = option("folder of the ensemble, for --run_dir of later commands")
    method: str = option("how to combine: mean, geometric, vote, blend or stack", "mean")
    l2: float = option(
        "of stack: the L2 penalty, weight of half the sum of squared coefficients", 1.0
    )
    calibration: str = option(
        "calibration of the combined probabilities, as of tfpipe.train",
        "temperature",
        TrainConfig.__dataclass_fields__["calibration"].metadata["choices"],
    )
    calibration_bounds: bool = option("bounds of the probabilities, as of tfpipe.train", False)
    overwrite: bool = option("replace an ensemble in OUT", False)


def main(options: Options) -> None:
    """Run the command; see the module's docstring."""
    if not 0 < options.l2 < math.inf:
        raise UserError(f"--l2={options.l2}: give a number above 0")

    from tfpipe.runs import calibration_fit, ensemble_builder

    ensemble_builder.make(
        [folder.strip() for folder in options.runs.split(",")],
        pathlib.Path(options.out),
        method=options.method,
        l2=options.l2,
        calibration=calibration_fit.Method(options.calibration, options.calibration_bounds),
        replace=options.overwrite,
    )


if __name__ == "__main__":
    cli.run(main, Options)
