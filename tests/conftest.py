"""A small data set, a run and an export, each made once for all processes of a test session."""

import ctypes
import fcntl
import gc
import os
import pathlib
import shutil
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do
os.environ["TFPIPE_CACHE"] = ""  # shards of tests are not worth remembering

# A shell starts a background job with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the real images and weights in ../shared, which are not here")
    return SHARED


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    """Drop the models of a file of tests: a process runs a hundred files."""
    yield
    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].backend.clear_session()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(autouse=True)
def _not_quiet():
    """What --quiet of one test has hushed speaks again in the next."""
    from tfpipe.core import terminal

    terminal.be_quiet(False)


def draw(kind, number, side=48):
    """Draws a disc on a reddish ground for a cat, a square on a bluish one for a dog."""
    rng = np.random.default_rng([number, kind == "dog"])
    width, height = (int(v) for v in rng.integers(side, 2 * side, 2))
    ground = (170, 90, 80) if kind == "cat" else (80, 100, 180)
    noise = rng.normal(0, 25, (height, width, 3)) + ground
    picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    box = [width // 4, height // 4, 3 * width // 4, 3 * height // 4]
    shape = ImageDraw.Draw(picture)
    (shape.ellipse if kind == "cat" else shape.rectangle)(box, fill=(230, 220, 150))
    return picture


def draw_logits(built):
    """Gives a classifier random last weights, which start at 0: then its logits tell images apart.

    Of the size that Glorot and Bengio 2010 give them.
    """
    kernel = built.head.get_layer("logits").kernel
    width = np.sqrt(6 / sum(kernel.shape))
    kernel.assign(np.random.default_rng(0).uniform(-width, width, kernel.shape))
    return built


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Returns a function that makes a folder once, whichever process needs it first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    shared.mkdir(exist_ok=True)

    def make(name, function):
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                function(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def image_folder(make_once):
    """80 JPEGs named as Kaggle names them: cat.0.jpg ... dog.39.jpg."""

    def make(folder):
        folder.mkdir()
        for number in range(40):
            for kind in ("cat", "dog"):
                draw(kind, number).save(folder / f"{kind}.{number}.jpg", quality=92)

    return make_once("images", make)


@pytest.fixture(scope="session")
def records(image_folder, make_once):
    """Records of `image_folder`: three shards of each split."""

    def make(folder):
        from tfpipe import build_records

        build_records.main(
            build_records.Options(
                source=(str(image_folder),), out=str(folder), shards=3, workers=1, report=False
            )
        )

    return make_once("toy", make)


TINY = {
    "backbones": "small_cnn",
    "weights": "none",
    "image_size": "32",
    "stages": "all:from=all",
    "pooling": "flatten",
    "head": "dense(16)",
    "epochs": 3,
    "batch_size": 16,
    "augment": "flip_lr|rotate(10)",
    "learning_rate": 3e-3,
    "tta": "flip_lr,crop(0.9)",
    "calibration": "auto",
    "calibration_bounds": True,
    "precision": "float32",  # on a CPU that has bfloat16 too, where a measurement would choose
}


@pytest.fixture
def tiny_config(records, tmp_path):
    """Returns a function from changed options to the configuration of a run of seconds."""
    from tfpipe.training.train_config import TrainConfig

    def make(**changes):
        base = {"records": str(records), "run_dir": str(tmp_path / "run")}
        return TrainConfig(**{**base, **TINY, **changes})

    return make


def _copy_of_a_run(made, folder):
    copy = shutil.copytree(made, folder)
    config = copy / "config.json"
    config.write_text(config.read_text().replace(str(made), str(copy)))
    return copy


@pytest.fixture(scope="session")
def run_dir(records, make_once, tmp_path_factory):
    """A finished run on `records`, with test-time views and calibration; one copy a process."""

    def make(folder):
        from tfpipe import train
        from tfpipe.training.train_config import TrainConfig

        train.main(TrainConfig(records=str(records), run_dir=str(folder), **TINY))

    return _copy_of_a_run(make_once("tiny-run", make), tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def second_run(records, make_once, tmp_path_factory):
    """Another run on `records`: smaller images, two stages, no views, a softmax, another seed."""

    def make(folder):
        from tfpipe import train
        from tfpipe.training.train_config import TrainConfig

        changes = {"seed": 5, "image_size": "24", "output": "softmax", "tta": ""}
        changes["stages"] = "a:from=head,epochs=1;b:from=all,epochs=1"
        train.main(TrainConfig(records=str(records), run_dir=str(folder), **TINY | changes))

    return _copy_of_a_run(make_once("second-run", make), tmp_path_factory.mktemp("runs") / "second")


@pytest.fixture(scope="session")
def export_dir(run_dir, make_once, tmp_path_factory):
    """The export of `run_dir`, with version 1: this process's own copy."""

    def make(folder):
        from tfpipe import export

        export.main(export.Options(run_dir=str(run_dir), export_dir=str(folder / "tiny")))

    made = make_once("export", make) / "tiny"
    return shutil.copytree(made, tmp_path_factory.mktemp("export") / "tiny")
