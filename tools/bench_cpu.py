"""Measures what `tfpipe.core.allocator` and `tfpipe.core.onednn` gain on a CPU, interleaved.

    python tools/bench_cpu.py [--rounds=3] [--models=MobileNet,ResNet50] [--json=FILE]

    inference    a forward pass
    constants    the same with constant weights (tfpipe.model.fold)
    training     an update of everything: forward, backward, descent

Each measurement is a process of its own, because the settings cannot be taken back.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from tfpipe.core import allocator, cli, onednn, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

TASKS = ("inference", "constants", "training")
SETTINGS = ("default", "allocator", "oneDNN", "both")
SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    rounds: int = option("measurements of each kind", 3)
    models: str = option("of tf_keras.applications, joined by commas", "MobileNet")
    batch: int = option("images in a step", 32)
    json: str = option("file for the figures; empty for none", "")
    child: str = option("used by the command itself: MODEL,TASK,SETTING", "")


def main(options: Options) -> None:
    """Prints a table of medians and ratios."""
    if options.child:
        measure(*options.child.split(","), options.batch)
        return
    models = options.models.split(",")
    children = [f"{m},{task},{s}" for m in models for task in TASKS for s in SETTINGS]
    found: dict[str, list[dict]] = {child: [] for child in children}
    with terminal.progress("measuring", options.rounds * len(found), "runs") as advance:
        for _ in range(options.rounds):
            for child, runs in found.items():
                runs.append(_run(child, options.batch))
                advance()
    rows, figures = [], {}
    for model in models:
        for task in TASKS:
            kinds = {s: _medians(found[f"{model},{task},{s}"]) for s in SETTINGS}
            figures[f"{model}, {task}"] = kinds
            rates = [kinds[s]["images_per_s"] for s in SETTINGS]
            ratio = f"{rates[-1] / rates[0]:.2f}"
            rows.append([f"{model}, {task}", "images/s", *(f"{rate:.1f}" for rate in rates), ratio])
            rows.append(["", "peak MB", *(f"{kinds[s]['peak_mb']:.0f}" for s in SETTINGS), ""])
    columns = ["", "", *SETTINGS, "ratio"]
    terminal.show_table(f"Medians of {options.rounds}, batch {options.batch}", columns, rows)
    if options.json:
        storage.write_json(options.json, figures)


def _medians(runs: list[dict]) -> dict:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _run(child: str, batch: int) -> dict:
    command = [sys.executable, __file__, f"--child={child}", f"--batch={batch}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the measurement {child} failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def measure(name: str, task: str, setting: str, batch: int) -> None:
    """Prints the rate and peak memory of one task as JSON."""
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if setting in ("allocator", "both") and not allocator.keep_freed_memory():
        raise UserError("the allocator cannot be set on this machine")
    if setting in ("oneDNN", "both"):
        onednn.use()
    import tensorflow as tf
    import tf_keras

    from tfpipe.model.fold import folded

    backbone = getattr(tf_keras.applications, name)(
        include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    model = tf_keras.Sequential([backbone, tf_keras.layers.Dense(1)])
    optimizer = tf_keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)

    @tf.function
    def inference(images):
        return model(images, training=False)

    @tf.function
    def training(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(images, training=True) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    constants = tf.function(folded(model))
    step = {"inference": inference, "constants": constants, "training": training}[task]
    images = tf.random.uniform([batch, 224, 224, 3])
    for _ in range(2):
        step(images)
    start = time.monotonic()
    steps = 0
    while time.monotonic() < start + SECONDS:
        step(images).numpy()
        steps += 1
    rate = steps * batch / (time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images_per_s": rate, "peak_mb": peak}))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cli.run(main, Options, tuned=False)
