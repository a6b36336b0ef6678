"""Measures what `tfpipe.allocator` gains: MobileNet on the CPU with and without it, interleaved.

    python tools/bench_allocator.py [--rounds=3] [--json=FILE]

Each measurement is a process of its own, because the setting cannot be taken back.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from tfpipe import allocator, cli, storage, terminal
from tfpipe.errors import UserError
from tfpipe.options import option

TASKS = ("inference", "training")
BATCH = 32
STEPS = {"inference": 16, "training": 6}


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    rounds: int = option("measurements of each kind", 3)
    json: str = option("file for the figures; empty for none", "")
    child: str = option("used by the command itself: TASK,0|1", "")


def main(options: Options) -> None:
    """Prints a table of medians and ratios."""
    if options.child:
        task, kept = options.child.split(",")
        measure(task, kept == "1")
        return
    rates: dict[str, list[dict]] = {f"{task},{kept}": [] for task in TASKS for kept in "01"}
    with terminal.progress("measuring", options.rounds * len(rates), "runs") as advance:
        for _ in range(options.rounds):
            for child, found in rates.items():
                found.append(_run(child))
                advance()
    rows, figures = [], {}
    for task in TASKS:
        plain, kept = (_medians(rates[f"{task},{k}"]) for k in "01")
        ratio = kept["images_per_s"] / plain["images_per_s"]
        figures[task] = {"default": plain, "kept": kept, "ratio": ratio}
        rows.append(
            [
                task,
                *(f"{side['images_per_s']:.1f}" for side in (plain, kept)),
                f"{ratio:.2f}",
                *(f"{side['peak_mb']:.0f}" for side in (plain, kept)),
            ]
        )
    columns = ["MobileNet, 224 px", "images/s default", "kept", "ratio", "peak MB default", "kept"]
    terminal.show_table(f"Medians of {options.rounds} runs, batch {BATCH}", columns, rows)
    if options.json:
        storage.write_json(options.json, figures)


def _medians(runs: list[dict]) -> dict:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _run(child: str) -> dict:
    command = [sys.executable, __file__, f"--child={child}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the measurement {child} failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def measure(task: str, kept: bool) -> None:
    """Prints the rate and peak memory of one task as JSON."""
    if kept and not allocator.keep_freed_memory():
        raise UserError("the allocator cannot be set on this machine")
    import tensorflow as tf

    backbone = tf.keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    model = tf.keras.Sequential([backbone, tf.keras.layers.Dense(1)])
    optimizer = tf.keras.optimizers.SGD(0.01)
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

    step = {"inference": inference, "training": training}[task]
    images = tf.random.uniform([BATCH, 224, 224, 3])
    for _ in range(2):
        step(images)
    start = time.monotonic()
    for _ in range(STEPS[task]):
        step(images).numpy()
    rate = STEPS[task] * BATCH / (time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images_per_s": rate, "peak_mb": peak}))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cli.run(main, Options, keep_freed_memory=False)
