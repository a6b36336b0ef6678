"""List the backbones: their input, and on request their size and speed on this machine.

    tfpipe models              all names
    tfpipe models 'mobile*'    those that match, each built and measured
    tfpipe models 'kecam:*'    all names of keras-cv-attention-models; a narrower pattern measures

The speed is of inference in float32, with random weights, on random images of the input's size.
"""

import dataclasses
import fnmatch
import time
from typing import TYPE_CHECKING

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import arguments, option

if TYPE_CHECKING:
    import tf_keras

_SECONDS = 2.0  # of measuring, for each backbone
_COLUMNS = ["backbone", "input, px", "features", "parameters", "images/s"]


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    patterns: tuple[str, ...] = arguments(
        "PATTERN", "names to build and measure, as mobilenet or 'efficientnetv2*'", required=False
    )
    batch_size: int = option("images of a step", 8, minimum=1, maximum=1024)


def main(options: Options) -> None:
    """Print the table."""
    from tfpipe.model import kecam_models
    from tfpipe.model.backbones import backbones, get, plain_name

    chosen = []
    for pattern in options.patterns:
        is_kecam = kecam_models.is_named(pattern)
        names = kecam_models.names() if is_kecam else sorted(backbones)
        if pattern.strip().lower() == f"{kecam_models.PREFIX}*":
            rows = [[name, get(name).input_size] for name in names]
            terminal.show_table("Backbones of keras-cv-attention-models", _COLUMNS[:2], rows)
            return
        fits = [name for name in names if fnmatch.fnmatch(plain_name(name), plain_name(pattern))]
        if not fits:
            known = f"{names[0]} and {len(names) - 1:,} more" if is_kecam else ", ".join(names)
            raise UserError(f"no backbone matches {pattern!r}; there are {known}")
        chosen += [name for name in fits if name not in chosen]
    if not chosen:
        rows = [[name, backbones[name]().input_size] for name in sorted(backbones)]
        terminal.show_table("Backbones", _COLUMNS[:2], rows)
        terminal.say("next: tfpipe models 'mobile*' builds and measures those that match")
        return
    rows = []
    for name in chosen:
        terminal.say(f"measuring {name}")
        rows.append(_row(name, options.batch_size))
    title = f"Backbones on this machine, float32, {options.batch_size} images a step"
    terminal.show_table(title, _COLUMNS, rows)


def _row(name: str, batch_size: int) -> list[object]:
    import tf_keras

    from tfpipe.model import backbones

    tf_keras.backend.clear_session()  # the models before
    architecture = backbones.get(name)
    model = backbones.build(architecture, architecture.input_size, backbones.NO_WEIGHTS)
    speed = _images_per_second(model, architecture.input_size, batch_size)
    features, parameters = model.output_shape[-1], model.count_params()
    return [name, architecture.input_size, features, f"{parameters:,}", f"{speed:,.1f}"]


def _images_per_second(model: "tf_keras.Model", size: int, batch_size: int) -> float:
    """Return the speed of inference, after one step to compile it."""
    import tensorflow as tf

    infer = tf.function(lambda images: model(images, training=False))
    images = tf.random.uniform([batch_size, size, size, 3])
    infer(images)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        infer(images)[0].numpy()  # waits for the step
        steps += 1
    return steps * batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    cli.run(main, Options)
