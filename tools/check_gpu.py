"""Check what only a machine with a GPU can show, in a few minutes.

    python -m tools.check_gpu [--minutes=5] [--json=FILE]

Draws images of two colours, trains on them, and prints a row for each check: what was found, the
most that is allowed, and a verdict.

    ok                       within its bound
    FAILED                   beyond its bound, ended by an error, or not done in time
    not possible on a CPU    needs a GPU, and TensorFlow sees none
    measured                 a figure without a bound

The exit status is 1 if a check failed. Without a GPU all checks run smaller, on the CPU.
"""

import csv
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.core.options import option

OK, FAILED, NOT_POSSIBLE, MEASURED = "ok", "FAILED", "not possible on a CPU", "measured"

# The most that each figure may be.
BOUNDS = {
    # 0 or 1.
    "device": 0.0,
    "batches": 0.0,
    # Loss of the last epoch / loss of the first: curves that do not fall compare nothing.
    "learns": 0.9,
    # Nats between the loss curves of two runs.
    "mixed_bfloat16": 0.2,
    "mixed_float16": 0.2,
    "xla": 0.002,
    # Levels of 255 that 99.9 % of the pixels differ by, at most.
    "augment": 0.5,
    # Share of the shorter of input and compute that the other does not hide.
    "overlap": 0.5,
    # Relative error of a matrix product. float32 has 1e-6, TensorFloat-32 1e-3.
    "tf32": 2e-5,
    # Between probabilities.
    "export": 1e-4,
}

AUGMENTS = {
    "geometry": "shear(0.2)|zoom(0.8,1.2)|rotate(20)|flip_lr",
    "colour": "flip_lr|contrast(0.2)|saturation(0.2)|hue(0.05)|gamma(0.8,1.2)|noise(0.02)",
    "randaugment": "randaugment(2,9)",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    minutes: float = option(
        "the most that it may take; what is left is not done then", 5.0, minimum=0.1
    )
    json: str = option("file for all figures; empty for none", "")
    only: str = option("names of checks, separated by commas; empty for all", "")


class CheckResult(NamedTuple):
    """A row of the table.

    Attributes:
        name: of the check, and what it looks at.
        value: the figure; None if there is none without a GPU.
        most: the most that it may be; None if it is only measured.
        detail: for people.
    """

    name: str
    value: float | None
    most: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Return the verdict; a value that is no number fails."""
        if self.value is None:
            return NOT_POSSIBLE
        if self.most is None:
            return MEASURED
        return OK if self.value <= self.most else FAILED


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the checks are."""

    images: int
    size: tuple[int, int]  # width and height of an image
    side: int  # of the model's input
    batch_size: int
    layers: int  # matrix products that stand for a step


ON_GPU = Scale(images=1000, size=(500, 375), side=224, batch_size=32, layers=40)
ON_CPU = Scale(images=60, size=(64, 48), side=32, batch_size=8, layers=1)
COLOURS = {"cold": (90, 110, 165), "warm": (165, 110, 90)}


class Testbed:
    """Drawn images, their records, and trainings on them.

    Attributes:
        gpu: whether TensorFlow sees a GPU.
        device: its name, or that of the CPU.
        scale: how large the checks are.
        work: a temporary folder.
    """

    def __init__(self, work: pathlib.Path):
        import tensorflow as tf

        self.gpu = bool(tf.config.list_logical_devices("GPU"))
        self.device = "GPU:0" if self.gpu else "CPU:0"
        self.scale = ON_GPU if self.gpu else ON_CPU
        self.work = work

    @functools.cached_property
    def images(self) -> pathlib.Path:
        """The folder of labelled images, CLASS/NUMBER.jpg."""
        out, rng = self.work / "images", np.random.default_rng(0)
        for number in range(self.scale.images):
            kind = list(COLOURS)[number % len(COLOURS)]
            coarse = rng.normal(COLOURS[kind], 40, (6, 8, 3)).clip(0, 255).astype(np.uint8)
            picture = Image.fromarray(coarse).resize(self.scale.size, Image.Resampling.BICUBIC)
            fine = np.asarray(picture) + rng.normal(0, 10, (*picture.size[::-1], 3))
            (out / kind).mkdir(parents=True, exist_ok=True)
            made = Image.fromarray(fine.clip(0, 255).astype(np.uint8))
            made.save(out / kind / f"{number}.jpg", quality=90)
        return out

    @functools.cached_property
    def records(self) -> pathlib.Path:
        """The folder of records."""
        from tfpipe import build_records

        out = self.work / "records"
        given = {"source": (str(self.images),), "out": str(out), "report": False}
        build_records.main(build_records.Options(**given, duplicates="keep"))
        return out

    @functools.cached_property
    def backbone(self) -> str:
        """A small backbone with BatchNorm, as an option of a training.

        It has no dropout, whose masks XLA draws in another way.
        """
        import tf_keras

        layers, path = tf_keras.layers, self.work / "plain.keras"
        image = layers.Input([self.scale.side, self.scale.side, 3])
        x = layers.Rescaling(1 / 127.5, -1)(image)
        for number in (1, 2, 3):
            x = layers.Conv2D(16 * number, 3, padding="same", name=f"conv{number}")(x)
            x = layers.BatchNormalization(name=f"norm{number}")(x)
            x = layers.ReLU(name=f"relu{number}")(x)
            x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
        tf_keras.Model(image, x).save(path)
        return f"{path}@pool3"

    @functools.cache  # noqa: B019 (it lives as long as the command)
    def trained(self, name: str, **changes: Any) -> list[dict[str, str]]:
        """Train a run in the folder `name`, unless it was; return the rows of its log."""
        import tf_keras

        from tfpipe import train
        from tfpipe.training.train_config import TrainConfig

        tf_keras.backend.clear_session()  # the models before
        folder = self.work / name
        options = {
            "backbones": self.backbone,
            "batch_norm": "trained",
            "weights": "none",
            "image_size": str(self.scale.side),
            "batch_size": self.scale.batch_size,
            "stages": "all:from=all",
            "head": "dense(16)",
            "augment": "flip_lr|rotate(10)",
            "learning_rate": 3e-3,
            "epochs": 3,
            "calibration": "none",
            "precision": "float32",
        }
        options |= {"records": str(self.records), "run_dir": str(folder)} | changes
        train.main(TrainConfig(**options))
        with open(folder / "log.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def losses(self, name: str, **changes: Any) -> np.ndarray:
        """Return the training losses of a run, one for each epoch."""
        return np.array([float(row["loss"]) for row in self.trained(name, **changes)])

    def float32(self) -> np.ndarray:
        """Return the losses of the run that others are compared with."""
        return self.losses("float32", xla="on")


def device(trial: Testbed) -> Iterator[CheckResult]:
    """The device, precision and compiler that a training chooses; a GPU of this machine is seen."""
    from tfpipe.training import runtime

    driver = pathlib.Path("/proc/driver/nvidia/gpus")
    there = len(list(driver.iterdir())) if driver.is_dir() else 0
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    unseen = bool(there and not trial.gpu and not hidden)
    line = runtime.choose("auto", "auto").explanation
    detail = f"{line}; the driver lists {there} GPUs" if unseen else line
    yield CheckResult("device: the driver's is seen", float(unseen), BOUNDS["device"], detail)


def augmentation(trial: Testbed) -> Iterator[CheckResult]:
    """Augmentation compiled on the device, beside the same on the CPU without a compiler."""
    import tensorflow as tf

    from tfpipe.augment import Augment

    scale, rng = trial.scale, np.random.default_rng(0)
    names = sorted(trial.images.glob("*/*"))[: scale.batch_size]
    images = _decoded(names, scale.side)
    labels = np.eye(2, dtype=np.float32)[rng.integers(0, 2, len(images))]
    for name, spec in AUGMENTS.items():
        chain = Augment(spec)
        numbers = rng.random((len(images), chain.num_random), np.float32)
        with tf.device("CPU:0"):
            expected = chain(images, labels, numbers)[0].numpy()
        with tf.device(trial.device):
            found = tf.function(chain, jit_compile=True)(images, labels, numbers)[0].numpy()
        apart = float(np.quantile(np.abs(found - expected), 0.999))
        yield CheckResult(f"augment: {name}", apart, BOUNDS["augment"])


def _decoded(paths: list[pathlib.Path], side: int) -> np.ndarray:
    from tfpipe.input import files

    decode = files.decoder(side)
    return np.stack([decode(path.read_bytes()) for path in paths])


def batches(trial: Testbed) -> Iterator[CheckResult]:
    """Where batches lie, and whether reading and copying them overlaps with the computation."""
    import tensorflow as tf

    one = next(iter(_batches(trial, 1)))
    where = one["image"].device.rpartition("device:")[2]
    bound = BOUNDS["batches"]
    yield CheckResult("batches: on the device", float(where != trial.device), bound, f"on {where}")
    side, steps = (4096, 100) if trial.gpu else (128, 4)

    @tf.function(jit_compile=True)
    def compute(image: tf.Tensor) -> tf.Tensor:
        x = tf.cast(tf.reshape(image, [-1])[: side * side], tf.bfloat16)
        x = tf.reshape(x, [side, side]) / 255
        for _ in range(trial.scale.layers):
            x = tf.matmul(x, x) / side
        return tf.reduce_sum(tf.cast(x, tf.float32))

    def seconds(function: Callable[[tf.Tensor], Any], images: Iterator[tf.Tensor]) -> float:
        result, start = None, time.perf_counter()
        for image in images:
            result = function(image)
        if result is not None:
            result.numpy()  # waits for the device
        return time.perf_counter() - start

    image = next(iter(_batches(trial, 1)))["image"]
    image = tf.tile(tf.reshape(image, [-1]), [1 + side * side // tf.size(image).numpy()])
    compute(image).numpy()  # compiles
    computing = seconds(compute, (image for _ in range(steps)))
    reading = seconds(lambda _: None, (batch["image"] for batch in _batches(trial, steps)))
    both = seconds(lambda _: compute(image), (batch["image"] for batch in _batches(trial, steps)))
    exposed = max(0.0, both - max(computing, reading)) / min(computing, reading)
    detail = f"compute {computing:.2f} s, input {reading:.2f} s, both {both:.2f} s"
    value = exposed if trial.gpu else None  # a CPU does both on the same cores
    yield CheckResult("batches: overlap with compute", value, BOUNDS["overlap"], detail)


def _batches(trial: Testbed, count: int) -> Iterator[dict]:
    """Yield batches of the training images, as a training gets them."""
    import itertools

    from tfpipe.input import pipeline
    from tfpipe.input.input_config import InputConfig
    from tfpipe.records import manifest
    from tfpipe.records.subset import Subset

    part = Subset(manifest.load(trial.records), ("train",))
    config = InputConfig(trial.scale.side, trial.scale.batch_size)
    return itertools.islice(pipeline.train_batches(part, config, epochs=10**6), count)


def precision(trial: Testbed) -> Iterator[CheckResult]:
    """The loss curve in half precision beside that in float32."""
    expected = trial.float32()
    fall = float(expected[-1] / expected[0])
    yield CheckResult("precision: float32 learns", fall, BOUNDS["learns"])
    for policy in ("mixed_bfloat16", "mixed_float16"):
        name, bound = f"precision: {policy}", BOUNDS[policy]
        if policy == "mixed_float16" and not trial.gpu:
            yield CheckResult(name, None, bound)
            continue
        found = trial.losses(policy, precision=policy, xla="on")
        yield CheckResult(name, *_apart(found, expected, bound))


def xla(trial: Testbed) -> Iterator[CheckResult]:
    """The loss curve of compiled steps beside that of eager ones, both in float32."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        eager = trial.losses("eager", xla="off")
    finally:
        tf.config.run_functions_eagerly(False)
    yield CheckResult("xla: compiled and eager", *_apart(trial.float32(), eager, BOUNDS["xla"]))


def _apart(found: np.ndarray, expected: np.ndarray, most: float) -> tuple[float, float, str]:
    """Return the largest difference of two loss curves, its bound, and both curves."""
    curves = (" ".join(f"{loss:.4f}" for loss in losses) for losses in (found, expected))
    return float(np.abs(found - expected).max()), most, " and ".join(curves)


def tf32(trial: Testbed) -> Iterator[CheckResult]:
    """An evaluation computes float32 with all of its digits."""
    import tensorflow as tf

    from tfpipe import evaluate

    trial.float32()
    tf.config.experimental.enable_tensor_float_32_execution(True)  # TensorFlow's default
    before = _matmul_error(trial.device)
    evaluate.main(evaluate.Options(run_dir=str(trial.work / "float32"), rounds=100))
    name, bound = "tf32: off in evaluation", BOUNDS["tf32"]
    if tf.config.experimental.tensor_float_32_execution_enabled():
        yield CheckResult(name, np.inf, bound, "TensorFlow says that it is on")
        return
    error, detail = _matmul_error(trial.device), f"with it {before:.1g}"
    yield CheckResult(name, error if trial.gpu else None, bound, detail)


def _matmul_error(device: str) -> float:
    """Return the relative error of a product of float32 matrices."""
    import tensorflow as tf

    a, b = np.random.default_rng(0).normal(size=(2, 512, 512)).astype(np.float32)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    with tf.device(device):
        found = tf.matmul(a, b).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def export(trial: Testbed) -> Iterator[CheckResult]:
    """An export that was made on the device answers the same in a process without a GPU."""
    from tfpipe import predict

    trial.float32()
    run, exported = trial.work / "float32", trial.work / "export"
    _run("tfpipe.export", f"--run_dir={run}", f"--export_dir={exported}")
    here, there = (trial.work / f"{name}.csv" for name in ("device", "cpu"))
    given = {"export_dir": str(exported), "source": (str(trial.images),), "columns": "all"}
    predict.main(predict.Options(**given, out=str(here)))
    flags = (f"--export_dir={exported}", f"--source={trial.images}", "--columns=all")
    _run("tfpipe.predict", *flags, f"--out={there}", CUDA_VISIBLE_DEVICES="")
    (names, found), (other_names, expected) = _probabilities(here), _probabilities(there)
    apart = float(np.abs(found - expected).max()) if names == other_names else np.inf
    yield CheckResult("export: without a GPU", apart, BOUNDS["export"], f"{len(names)} images")


def _probabilities(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [key for key in rows[0] if key.startswith("probability_")]
    values = [[float(row[name]) for name in names] for row in rows]
    return [row["name"] for row in rows], np.array(values)


def _run(module: str, *flags: str, **variables: str) -> None:
    """Run a command as a user does; raise UserError with its last line if it fails."""
    # The commands must share the GPU's memory with this process without its help.
    given = {k: v for k, v in os.environ.items() if k != _GROWTH} | variables
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.run(command, env=given, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = next(filter(None, reversed(done.stderr.splitlines())), "nothing")
        raise UserError(f"{module} ended with status {done.returncode}: {last}")


def wait(trial: Testbed) -> Iterator[CheckResult]:
    """The share of the last epoch that steps wait for their input."""
    for backbone in ("MobileNet", "ResNet50"):
        for resize_on in ("host", "device"):
            changes = {"backbones": backbone, "resize_on": resize_on, "precision": "auto"}
            changes["epochs"] = 2 if trial.gpu else 1  # the first one compiles
            rows = trial.trained(f"{backbone}-{resize_on}", **changes)
            detail = f"{float(rows[-1]['images_per_s']):,.0f} images/s"
            name = f"input wait: {backbone}, {resize_on}"
            yield CheckResult(name, float(rows[-1]["input_wait"]), None, detail)


CHECKS: tuple[Callable[[Testbed], Iterator[CheckResult]], ...] = (
    *(device, augmentation, batches, precision, xla, tf32, export, wait),
)

_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


def main(options: Options) -> int:
    """Run the checks, print the table, and return the exit status."""
    chosen = _chosen(options.only)
    report = Report(options.json, [check.__name__ for check in chosen])
    os.environ.setdefault(_GROWTH, "true")  # leaves memory to the processes of `export`
    with tempfile.TemporaryDirectory() as work:
        late = threading.Timer(60 * options.minutes, report.give_up, (options.minutes, work))
        late.daemon = True
        late.start()
        try:
            trial = Testbed(pathlib.Path(work).resolve())
            for check in chosen:
                terminal.say(f"{check.__name__}: {check.__doc__.splitlines()[0]}")
                report.add(check.__name__, _findings(check, trial))
        finally:
            late.cancel()
    return report.show()


def _chosen(only: str) -> list[Callable[[Testbed], Iterator[CheckResult]]]:
    names = {check.__name__: check for check in CHECKS}
    asked = only.split(",") if only else list(names)
    for name in asked:
        if name not in names:
            raise UserError(f"`only={only}`: {name} is none of {', '.join(names)}", status=2)
    return [names[name] for name in asked]


def _findings(
    check: Callable[[Testbed], Iterator[CheckResult]], trial: Testbed
) -> Iterator[CheckResult]:
    """Yield the findings of a check, and a failed one in place of an error."""
    try:
        with terminal.logged():  # without the lines of the commands
            yield from check(trial)
    except Exception as error:  # a check may find any
        reason = one_line(str(error).strip().splitlines()[0] if str(error) else repr(error))
        yield CheckResult(check.__name__, np.nan, 0.0, f"{type(error).__name__}: {reason[:200]}")


class Report:
    """The findings so far; the file has them after each check."""

    def __init__(self, path: str, checks: list[str]):
        self._path, self._left = path, list(checks)
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, check: str, findings: Iterator[CheckResult]) -> None:
        """Add the findings of a check, which is done then."""
        start = time.monotonic()
        for each in findings:
            seconds = round(time.monotonic() - start, 1)
            with self._lock:
                self._rows.append(each._asdict() | {"verdict": each.verdict, "seconds": seconds})
            start = time.monotonic()
        with self._lock:
            self._left.remove(check)
            self._save()

    def show(self) -> int:
        """Print the table; return the exit status."""
        rows = [
            [row["name"], _text(row["value"]), _text(row["most"]), row["verdict"]]
            for row in self._rows
        ]
        terminal.show_table("Checks", ["check", "found", "at most", "verdict"], rows)
        for row in self._rows:
            if row["detail"]:
                terminal.result(f"{row['name']}: {row['detail']}")
        return int(any(row["verdict"] == FAILED for row in self._rows))

    def give_up(self, minutes: float, work: str) -> None:
        """Remove `work` and end the process: what is left failed. Nothing interrupts a compiler."""
        with self._lock:
            for check in self._left:
                row = CheckResult(check, np.nan, 0.0, f"not done within {minutes:g} minutes")
                self._rows.append(row._asdict() | {"verdict": FAILED, "seconds": 0.0})
            self._save()
            self.show()
        sys.stdout.flush()
        shutil.rmtree(work, ignore_errors=True)
        os._exit(1)

    def _save(self) -> None:
        if self._path:
            rows = [{key: _json(value) for key, value in row.items()} for row in self._rows]
            storage.write_json(self._path, {"argv": sys.argv[1:], "checks": rows})


def _json(value: Any) -> Any:
    """Return a number that JSON has: not NaN or infinity."""
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    cli.run(main, Options)
