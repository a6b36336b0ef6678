"""Search for better options of a training, over features that are computed once.

    python -m tfpipe.tune --recipe=mobilenet-frozen --records=records/NAME --run_dir=runs/search
    python -m tfpipe.tune ... --trials=50 --space="lr=log(1e-4,1e-1);head=norm,dropout(0.5)"

The options of tfpipe.train are the base. A trial is a training with some other options, which
Optuna draws from the space. It is measured on the validation images, by the log loss after
calibration or the metric of --monitor. --space is OPTION=VALUE,VALUE;OPTION=... A value may have
numbers to draw: log(LOW,HIGH), uniform(LOW,HIGH), int(LOW,HIGH), as in dropout(uniform(0,0.7)). Put
parentheses around a value with commas, as backbones=mobilenet,(mobilenet,xception). Without
--space a search draws the head, its dropout, the learning rate and the weight decay.

The folder gets trials.csv, and best.flags for --flagfile of tfpipe.train. At the end the best trial
is compared with the base on the same images by a paired test, corrected for the number of trials.
The same command continues an interrupted search. It needs the extra `tune`.
"""

import dataclasses

from tfpipe.core import cli
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Options(TrainConfig):
    """The options of this command: those of tfpipe.train, as the base, and its own."""

    run_dir: str = option("folder of the search", "", common=True)
    minutes: float = option(
        "begin no trial that is expected to end after this many minutes; 0 for no limit",
        0.0,
        minimum=0,
    )
    space: str = option(
        "options to draw, and their values: OPTION=VALUE,VALUE;OPTION=...; empty for the head, its"
        " dropout, the learning rate and the weight decay",
        "",
        group="Search",
        common=True,
    )
    trials: int = option(
        "trials in all, with those of an interrupted search", 20, minimum=1, common=True
    )


def main(options: Options) -> None:
    """Run the command; see the module's docstring."""
    for name in ("records", "run_dir"):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing: give its folder", status=2)
    if options.folds or options.describe:
        name = "folds" if options.folds else "describe"
        raise UserError(f"--{name} is of tfpipe.train: leave it out of a search", status=2)

    from tfpipe.search.searcher import Searcher

    names = [field.name for field in dataclasses.fields(TrainConfig)]
    base = TrainConfig(**{name: getattr(options, name) for name in names})
    Searcher(base, options.space, options.minutes).run(options.trials)


if __name__ == "__main__":
    cli.run(main, Options, takes_recipes=True)
