"""Train a classifier on records; the same command resumes a training that was ended.

    tfpipe train --recipe=NAME --records=records/NAME --run_dir=runs/NAME

The run folder gets the resolved configuration (config.json), the best weights, checkpoints,
log.csv and TensorBoard's logs. At the end the best weights are calibrated on the validation split.
Later commands need only --run_dir. With --folds there is a folder for each fold, and a prediction
of every image by the run that was not trained on it. --describe only shows the model, and needs
neither --records nor --run_dir.

On several machines run the same command on each, with TensorFlow's environment variable TF_CONFIG;
--run_dir and --records are folders that all machines share. If a worker is lost, the others end
with status 75: start the same command on all of them again.
"""

import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfpipe.core import cli, options, terminal
from tfpipe.core.errors import UserError
from tfpipe.training.train_config import TrainConfig

if TYPE_CHECKING:
    from tf_keras.callbacks import Callback

    from tfpipe.training.cluster import Cluster


def main(config: TrainConfig, callbacks: "Sequence[Callback]" = ()) -> None:
    """Run the command, perhaps with callbacks of tf_keras; see the module's docstring."""
    from tfpipe.runs import trainer as training
    from tfpipe.training import strategy
    from tfpipe.training.cluster import Cluster

    if config.describe:
        show_model(config)
        return
    for name in ("records", "run_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing: give its folder", status=2)
    with strategy.explained_losses():
        cluster = Cluster(strategy.choose(config.strategy))
        cluster.check_same(options.to_json(config))
        cluster.check(config.batch_size)
        if config.folds:
            cross_validate(config, cluster, callbacks)
        else:
            training.train(config, cluster, callbacks)
            terminal.say(f"next: tfpipe evaluate {shlex.quote(f'--run_dir={config.run_dir}')}")


def cross_validate(
    config: TrainConfig, cluster: "Cluster", callbacks: "Sequence[Callback]" = ()
) -> None:
    """Train a run for each fold of the records, and join their held-out predictions."""
    import tf_keras

    from tfpipe.records import manifest as manifests
    from tfpipe.runs import crossval
    from tfpipe.runs import trainer as training

    manifest = manifests.load(config.records)
    runs = crossval.configs(config, manifest)
    for run in runs:
        terminal.say(f"fold {run.fold} of {len(runs)}:")
        tf_keras.backend.clear_session()  # the models of the folds before
        training.train(run, cluster, callbacks)
    if cluster.is_chief:
        crossval.join(config, runs, manifest)


def show_model(config: TrainConfig) -> None:
    """Print the model of these options. Of the records it reads only the classes."""
    from tfpipe.model import describe as description
    from tfpipe.model import partition
    from tfpipe.records import manifest as manifests
    from tfpipe.records.label_encoding import LabelEncoding
    from tfpipe.runs import trainer as training
    from tfpipe.training import stages

    if config.records and pathlib.Path(config.records).exists():
        encoding = manifests.load(config.records).encoding
    else:
        encoding = LabelEncoding(classes=2)
        why = f"--records={config.records} does not exist" if config.records else "no --records"
        terminal.say(f"{why}: the model has two classes")
    built = training.plain_model(config, encoding)
    trained = {}
    planned = stages.parse(config)
    for stage in planned:
        batch_norm = stage.config.batch_norm == "trained"
        parts = partition.partition(built, stage.start, batch_norm=batch_norm)
        name = "trainable" if len(planned) == 1 else f"trainable in stage {stage.name}"
        trained[name] = parts.parameters
    description.show(built, trained)


if __name__ == "__main__":
    cli.run(main, TrainConfig, takes_recipes=True)
