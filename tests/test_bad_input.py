"""A user's mistakes at the command line: one line that helps, a status, nothing left behind.

build_records has its own in test_build_records.py, the server and client in test_serving_*.py.
"""

import json
import os
import shutil
import subprocess
import sys

import commands
import pytest
from commands import assert_one_error
from conftest import ROOT

from tfpipe import evaluate, export, predict, train
from tfpipe.training.train_config import TrainConfig

MODULES = {"train": train, "evaluate": evaluate, "predict": predict, "export": export}


def run(name, *flags):
    options = TrainConfig if name == "train" else MODULES[name].Options
    return commands.run(MODULES[name].main, options, *flags)


@pytest.fixture
def empty_run(tmp_path, run_dir):
    """A run folder whose training was interrupted in its first epoch."""
    (tmp_path / "run").mkdir()
    config = json.loads((run_dir / "config.json").read_text()) | {"parts": []}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"


def test_a_flagfile_with_an_unknown_flag(tmp_path):
    flagfile = tmp_path / "x.flags"
    flagfile.write_text("# comment\n--epochs=3\n--epoch_count=3\n")
    done = run("train", f"--flagfile={flagfile}", "--records=r", f"--run_dir={tmp_path}/r")
    assert_one_error(done, "x.flags, line 3", "epoch_count")
    assert os.listdir(tmp_path) == ["x.flags"]


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("train", ["--flagfile=nowhere.flags"], ["nowhere.flags"]),
        ("train", ["--run_dir=x"], ["--records is missing"]),
        ("train", ["--records=x", "--run_dir=x", "--epochs=three"], ["--epochs=three"]),
        ("train", ["--records=x", "--run_dir=x", "--xla=maybe"], ["--xla", "auto"]),
        ("evaluate", ["runs/x"], ["unexpected argument 'runs/x'"]),
        ("evaluate", ["--run_dir=x", "--spilt=val"], ["spilt", "split"]),
        ("predict", ["--run_dir=x"], ["--source is missing"]),
    ],
)
def test_wrong_flags(module, arguments, words):
    done = run(module, *arguments)
    assert_one_error(done, *words)
    assert done.returncode == 2


COMMANDS = {
    "tfpipe.verify_records": lambda records: [f"--records={records}"],
    "tfpipe.train": lambda records: ["--help"],
    "serving.client": lambda records: ["--help"],
}


@pytest.mark.parametrize("module", COMMANDS)
def test_a_full_standard_output(module, records):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", module, *COMMANDS[module](records)]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: cannot write the output: No space left on device"]


@pytest.mark.parametrize("module", ["tfpipe.train", "tfpipe.verify_records", "serving.client"])
def test_python_without_docstrings(module):
    """tf_keras builds docstrings out of others when it is imported."""
    command = [sys.executable, "-OO", "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "PYTHONOPTIMIZE=2" in line


def test_a_working_folder_that_is_not_utf8(records, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9")
    shutil.copytree(records, f"{folder}/records")
    flags = ["--records=records", "--run_dir=run", "--backbones=small_cnn", "--weights=none"]
    done = commands.run(train.main, TrainConfig, *flags, "--image_size=32", cwd=folder)
    assert_one_error(done, "not UTF-8")


REST = {
    "evaluate": lambda folder, source: [],
    "predict": lambda folder, source: [f"--source={source}", f"--out={folder}/s.csv"],
    "export": lambda folder, source: [f"--export_dir={folder}/export"],
}


@pytest.mark.parametrize("module", REST)
def test_a_run_folder_that_is_none(module, tmp_path):
    rest = REST[module](tmp_path, "x.zip")
    done = run(module, f"--run_dir={tmp_path}/nothing", *rest)
    assert_one_error(done, "nothing/config.json does not exist", "--run_dir")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("module", REST)
def test_a_run_folder_without_a_checkpoint(module, empty_run, image_folder, tmp_path):
    done = run(module, f"--run_dir={empty_run}", *REST[module](tmp_path, image_folder))
    assert_one_error(done, str(empty_run), "best.weights.h5", "tfpipe.train")
    assert os.listdir(tmp_path) == ["run"]
    assert os.listdir(empty_run) == ["config.json"]


def test_a_damaged_checkpoint(empty_run):
    (empty_run / "best.weights.h5").write_bytes(b"not HDF5")
    done = run("evaluate", f"--run_dir={empty_run}")
    assert_one_error(done, "best.weights.h5 is damaged")


def test_train_without_records(tmp_path):
    done = run("train", f"--records={tmp_path}/none", f"--run_dir={tmp_path}/run")
    assert_one_error(done, "none/manifest.json does not exist", "build_records")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [("missing.zip", ["'", "does not exist"]), ("text.zip", ["is not TFRecords or"])],
)
def test_predict_from_what_is_no_source(run_dir, tmp_path, source, words):
    (tmp_path / "text.zip").write_text("no zip")
    where = [f"--source={tmp_path / source}", f"--out={tmp_path / 's.csv'}"]
    assert_one_error(run("predict", f"--run_dir={run_dir}", *where), source, *words)
    assert os.listdir(tmp_path) == ["text.zip"]


def test_predict_into_a_folder_that_is_not_there(run_dir, image_folder, tmp_path):
    where = [f"--source={image_folder}", f"--out={tmp_path}/no/s.csv"]
    done = run("predict", f"--run_dir={run_dir}", *where)
    assert_one_error(done, "--out=", "folder that exists")


@pytest.mark.slow  # starts two commands
def test_a_quiet_terminal(records, tmp_path):
    """Nothing of TensorFlow, oneDNN, absl, XLA or tensorflow-addons is to be seen."""
    # As a user's terminal is: what the tests set to keep themselves quiet is not there.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}

    def start(module, *flags):
        command = [sys.executable, "-m", module, *flags, f"--run_dir={tmp_path / 'run'}"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = start(
        "tfpipe.train",
        *("--backbones=small_cnn", "--weights=none", "--image_size=32", "--stages=all:from=all"),
        *("--pooling=flatten", "--epochs=1", "--augment=flip_lr", "--optimizer=lamb"),
        f"--records={records}",
    )
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert [line[0] for line in table[:2]] == ["training", "stage"]
    assert len(table) == 4, "a title, a head, a rule, and a line for the stage"
    starts = (
        *("device ", "small_cnn at 32", "epoch 1/1", "trained 1 epochs", "calibration "),
        *("the last epoch is the best", "next: "),
    )
    for line in done.stderr.splitlines():
        assert line.startswith(starts), done.stderr
    assert len(start("tfpipe.evaluate", "--verbosity=1").stderr.splitlines()) > 2
