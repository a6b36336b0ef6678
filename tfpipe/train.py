"""Trains a classifier on records, and goes on where it stopped when run again.

    python -m tfpipe.train --flagfile=configs/NAME.flags --records=records/NAME --run_dir=runs/NAME

The run folder gets the resolved configuration (config.json), the best weights, checkpoints to
resume from, log.csv and TensorBoard's logs; at the end the best weights are calibrated on the
validation split. Later commands need only --run_dir. With --folds there is such a folder for each
fold, and the predictions of all images by the run without them. With --describe the model is shown,
and nothing else is done.

On several machines run the same command on each, with the environment variable TF_CONFIG that
TensorFlow takes; --run_dir and --records are folders that all of them see.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from tfpipe.core import cli, options, terminal
from tfpipe.training.config import TrainConfig

if TYPE_CHECKING:
    from tfpipe.training.strategy import Cluster


def main(config: TrainConfig) -> None:
    """Runs the command; see the module's docstring."""
    from tfpipe.runs import trainer as training
    from tfpipe.training import parameter_server, strategy

    if config.describe:
        show_model(config)
        return
    with strategy.rejoining():
        chosen = strategy.choose(config.strategy)
        if chosen is None:
            return
        cluster = strategy.Cluster(chosen)
        cluster.check_same(options.to_json(config))
        cluster.check(config.batch_size)
        if config.folds:
            cross_validate(config, cluster)
        else:
            training.train(config, cluster)
            terminal.say(f"next: python -m tfpipe.evaluate --run_dir={config.run_dir}")
        parameter_server.leave(chosen)


def cross_validate(config: TrainConfig, cluster: "Cluster") -> None:
    """Trains a run for each fold of the records, and joins their held-out predictions."""
    import tf_keras

    from tfpipe.records import manifest as manifests
    from tfpipe.runs import crossval
    from tfpipe.runs import trainer as training
    from tfpipe.training.run import begun

    runs = crossval.configs(config, manifests.load(config.records))
    precision = config.precision
    for run in runs:
        terminal.say(f"fold {run.fold} of {len(runs)}:")
        tf_keras.backend.clear_session()  # the models of the folds before
        # What was measured in the first fold is for all: they share the features. And one that has
        # begun goes on in it, also on a machine that would choose another.
        if config.precision == "auto" and (before := begun(run.run_dir)):
            precision = before.config.precision
        precision = training.train(dataclasses.replace(run, precision=precision), cluster)
    if cluster.is_chief:
        crossval.join(config, runs)


def show_model(config: TrainConfig) -> None:
    """Prints the model that these options make; of the records only the classes are read."""
    from tfpipe.model import describe as description
    from tfpipe.model import partition
    from tfpipe.records import manifest as manifests
    from tfpipe.runs import trainer as training
    from tfpipe.training import stages

    if pathlib.Path(config.records).exists():
        classes = len(manifests.load(config.records).classes)
    else:
        classes = 2
        terminal.say(f"--records={config.records} does not exist: two classes are assumed")
    built = training.plain_model(config, classes)
    trained = {}
    planned = stages.parse(config)
    for stage in planned:
        batch_norm = stage.config.batch_norm == "trained"
        parts = partition.partition(built, stage.start, batch_norm=batch_norm)
        name = "trainable" if len(planned) == 1 else f"trainable in stage {stage.name}"
        trained[name] = parts.parameters
    description.show(built, trained)


if __name__ == "__main__":
    cli.run(main, TrainConfig)
