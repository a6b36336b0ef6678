"""Measures steps of a backbone on this machine, in each setting of the process.

    python -m tools.bench.steps [--backbone=MobileNet] [--json=FILE]

The tasks, with random weights and images, in images/s:

    inference    a forward pass
    folded       the same with BatchNorm folded into convolutions, as frozen layers run
    training     an update of everything: forward, backward, SGD

The settings:

    plain        TensorFlow's defaults
    onednn       oneDNN's kernels on every CPU, as the commands run
    bfloat16     onednn, in mixed_bfloat16
    xla          onednn, compiled
"""

import functools
import os
import sys
from collections.abc import Iterator

from tools.bench import harness, ours, report
from tools.bench.harness import Case
from tools.bench.worker import Epoch

TASKS = ("inference", "folded", "training")
SETTINGS = ("plain", "onednn", "bfloat16", "xla")


def main() -> int:
    """Print the tables; return the exit status."""
    parser = harness.parser(__doc__)
    add = parser.add_argument
    add("--backbone", default="MobileNet", help="a name of tf_keras.applications")
    add("--size", type=int, default=224, help="side of the images in pixels")
    add("--batch_size", type=int, default=32, help="images in a step")
    add("--seconds", type=float, default=5.0, help="how long to measure each")
    flags = parser.parse_args()
    names = ("backbone", "size", "batch_size", "seconds")
    given = {name: getattr(flags, name) for name in names} | {"function": "steps.step"}
    cases, comparisons = [], []
    for task in TASKS:
        for setting in SETTINGS:
            measure = functools.partial(harness.call, task=task, setting=setting, **given)
            cases.append(Case(f"{task}-{setting}", measure))
        for setting, to in (("onednn", "plain"), ("bfloat16", "onednn"), ("xla", "onednn")):
            comparisons.append(report.ratio("images/s", f"{task}-{setting}", f"{task}-{to}"))
    with harness.session(flags) as session:
        return harness.run(session, cases, (), comparisons)


def step(backbone: str, size: int, batch_size: int, task: str, setting: str, **_: float) -> Epoch:
    """Return epochs of eight steps; it runs in a process of its own."""
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if setting != "plain":
        ours.tune()
    import tensorflow as tf
    import tf_keras as keras

    if setting == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    base = getattr(keras.applications, backbone)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    model = keras.Sequential([base, keras.layers.Dense(1, dtype="float32")])
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)

    if task == "folded":
        model = ours.folded(model)

    def infer(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    def train(images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(images, training=True) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    compiled = tf.function(train if task == "training" else infer, jit_compile=setting == "xla")
    images = tf.random.uniform([batch_size, size, size, 3])

    def epoch() -> Iterator[int]:
        for _ in range(8):
            compiled(images).numpy()
            yield batch_size

    return epoch


if __name__ == "__main__":
    sys.exit(main())
