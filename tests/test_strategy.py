"""Several devices or machines train as one does; a worker that was lost comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import pytest
import tensorflow as tf
import tf_keras
from conftest import ROOT, TINY
from test_train import check_same_run, log_of

from tfpipe import build_records, train
from tfpipe.core.errors import UserError
from tfpipe.training import strategy, update
from tfpipe.training.config import TrainConfig

TWO = ["localhost:1234", "localhost:1235"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not JSON"),
        ("[]", "TF_CONFIG is not an object"),
        ('{"cluster": []}', None),
        ('{"cluster": 3}', 'has a "cluster" that is not an object'),
        ({"cluster": {"worker": "localhost:1"}}, '"worker" that is not a list of HOST:PORT'),
        ({"cluster": {"worker": ["localhost"]}}, '"worker" that is not a list of HOST:PORT'),
        ({"cluster": {"worker": ["localhost:99999"]}}, "not a list of HOST:PORT"),
        ({"cluster": {"master": TWO}}, "task of kind 'master'"),
        ({"cluster": {"worker": TWO}}, 'has no "task"'),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker"}}, 'has no "task"'),
        ({"cluster": {"worker": TWO}, "task": {"type": "chief", "index": 0}}, "task type 'chief'"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 2}}, "index 2, not 0 to"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": "x"}}, "index 'x', not"),
        ({"cluster": {"chief": TWO}, "task": {"type": "chief", "index": 0}}, "several chiefs"),
        ({"cluster": {"worker": TWO, "ps": TWO}}, "task of kind 'ps'"),
    ],
)
def test_what_is_wrong_with_tf_config_is_explained(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text if isinstance(text, str) else json.dumps(text))
    if message is None:
        strategy.choose("auto")
        return
    with pytest.raises(UserError, match=message) as error:
        strategy.choose("auto")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multi_worker", "TF_CONFIG names no workers"),
        ("parameter_server", "give `strategy=multi_worker`"),
        ("everything", "one_device, mirrored, multi_worker, tpu"),
        ("tpu", "--strategy=tpu: there is no TPU"),
    ],
)
def test_a_strategy_that_cannot_be_had_is_explained(monkeypatch, name, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=message) as error:
        strategy.choose(name)
    assert "\n" not in str(error.value)


def test_one_device_is_tensorflows_default(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name in ("auto", "one_device"):
        assert strategy.choose(name) is tf.distribute.get_strategy()
    assert strategy.choose("mirrored").num_replicas_in_sync == 1


def test_devices_that_cannot_share_a_batch_are_told_the_next_larger_one():
    three = types.SimpleNamespace(num_replicas_in_sync=3, cluster_resolver=None)
    cluster = strategy.Cluster(three)
    cluster.check(18)
    with pytest.raises(UserError, match=r"among 3 devices: .* as --batch_size=18") as error:
        cluster.check(16)
    assert error.value.status == 2


def test_an_error_of_a_single_process_is_not_taken_for_a_loss(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(tf.errors.UnavailableError), strategy.rejoining():
        raise tf.errors.UnavailableError(None, None, "x")


def test_a_worker_gives_up_when_others_are_lost_again_and_again(monkeypatch):
    config = {"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    monkeypatch.setenv("TFPIPE_REJOINS", str(strategy.MAX_REJOINS))
    again = pytest.raises(UserError, match="start all workers again with the same command")
    with again as error, strategy.rejoining():
        raise tf.errors.UnavailableError(None, None, "x")
    assert error.value.status == strategy.LOST_STATUS


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A small backbone without dropout, whose masks differ from device to device."""
    layers = tf_keras.layers
    image = layers.Input([32, 32, 3])
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for number in (1, 2):
        x = layers.Conv2D(8, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        x = layers.MaxPooling2D(4, name=f"pool{number}")(x)
    path = tmp_path_factory.mktemp("backbone") / "plain.keras"
    tf_keras.Model(image, x).save(path)
    return f"{path}@pool2"


@pytest.fixture
def options(records, backbone, tmp_path):
    """Returns a function from a run's name and changes to its options."""

    def make(name, **changes):
        base = {**TINY, "records": str(records), "run_dir": str(tmp_path / name)}
        base |= {"backbones": backbone, "calibration": "none", "tta": "", "strategy": "auto"}
        return {**base, "clip_norm": 1.0, "average": "ema(0.9)", **changes}

    return make


STAGES = "head:epochs=2,lr=1e-2;all:from=all,backbone_lr=1e-3,accumulate_steps=3"

MIRRORED = """
import json, sys
import tensorflow as tf
import tf_keras
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from tfpipe import train
from tfpipe.training.config import TrainConfig
for options in json.loads(sys.argv[1]):
    train.main(TrainConfig(**options))
"""


def run_script(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.large
def test_mirrored_devices_train_as_one_does(options, tmp_path):
    """In stages from cached features and from pictures, resumed after the first epoch too."""
    changes = {"stages": STAGES, "feature_views": 2, "pooling": "avg"}
    runs = [
        options("one", strategy="one_device", **changes),
        options("two", strategy="mirrored", **changes),
    ]
    done = run_script(MIRRORED, json.dumps(runs))
    assert "each batch shared by 2 devices" in done.stderr
    check_same_run(tmp_path / "one", tmp_path / "two")


UPDATES = """
import numpy as np
import tensorflow as tf
import tf_keras
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from tfpipe.training.config import TrainConfig
from tfpipe.training import optimizers
from tfpipe.training.strategy import share_out
from tfpipe.training.update import Update

def trained(strategy, name, float16):
    config = TrainConfig(records="", run_dir="", optimizer=name, learning_rate=0.1, clip_norm=0.5,
                         accumulate_steps=2, schedule="cosine(4)", backbone_learning_rate=0.01)
    data = np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)
    with strategy.scope():
        weights = [tf.Variable(tf.ones([3, 2])), tf.Variable(tf.zeros([2]))]
        update = Update(config, weights, backbone=weights[:1], steps=3, float16=float16)
    def step(x, due):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.sigmoid(x @ weights[0] + weights[1]) ** 2) / 8
            loss = update.scaled(loss)
        update.add(tape.gradient(loss, weights), due=due)
    run = {due: tf.function(lambda x, due=due: strategy.run(step, args=(x, due)))
           for due in (False, True)}
    for number, x in enumerate(data):
        if number == 3:
            update.reset()
        run[update.due(number % 3 + 1)](share_out(strategy, tf.constant(x)))
    return [weight.numpy() for weight in weights]

for name in set(optimizers.optimizers) - {"lookahead"}:
    for float16 in (False, True)[: 1 + (name in ("adam", "nadam"))]:
        one = trained(tf.distribute.get_strategy(), name, float16)
        other = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), name, float16)
        assert np.abs(one[1]).max() > 1e-5, name
        for a, b in zip(one, other):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
"""


def test_every_optimizer_updates_mirrored_weights_alike():
    run_script(UPDATES)


def test_an_optimizer_that_cannot_be_mirrored_is_refused():
    config = TrainConfig(records="", run_dir="", optimizer="lookahead")
    update.check(config, 3)
    with pytest.raises(UserError, match="cannot train on 2 devices: give radam"):
        update.check(config, 3, 2)


class Cluster:
    """The processes of one training; without `jobs` two workers."""

    def __init__(self, options, log, **jobs):
        jobs = jobs or {"worker": 2}
        sockets = [socket.socket() for _ in range(sum(jobs.values()))]
        for each in sockets:
            each.bind(("localhost", 0))
        addresses = iter([f"localhost:{each.getsockname()[1]}" for each in sockets])
        self._jobs = {kind: [next(addresses) for _ in range(jobs[kind])] for kind in jobs}
        for each in sockets:
            each.close()
        self._options, self._log = options, log
        self.processes = {}

    def start(self, index, kind="worker", **changes):
        task = {"type": kind, "index": index}
        config = json.dumps({"cluster": self._jobs, "task": task})
        given = self._options | changes
        flags = [f"--{name}={value}" for name, value in given.items()]
        with open(self._log / f"{kind}{index}.log", "a") as log:
            self.processes[kind, index] = subprocess.Popen(
                [sys.executable, "-m", "tfpipe.train", *flags],
                env={**os.environ, "TF_CONFIG": config},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def start_all(self):
        for kind, addresses in self._jobs.items():
            for index in range(len(addresses)):
                self.start(index, kind)
        return self

    def kill_after_an_epoch(self, index, kind, run_dir):
        log = run_dir / "log.csv"
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        killed = self.processes.pop((kind, index))
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    def end(self, seconds=250, status=0):
        """Waits for all to end with that status, and returns what each said, by kind and index."""
        try:
            for process in self.processes.values():
                process.wait(seconds)
        finally:
            for process in self.processes.values():
                process.kill()
        said = {
            (kind, index): (self._log / f"{kind}{index}.log").read_text()
            for kind, index in self.processes
        }
        for task, process in self.processes.items():
            assert process.returncode == status, (task, said)
        return said


def test_two_workers_train_as_one_process_does(options, tmp_path):
    train.main(TrainConfig(**options("one", stages=STAGES)))
    said = Cluster(options("two", stages=STAGES), tmp_path).start_all().end()
    assert "each batch shared by 2 devices" in said["worker", 0]
    assert "epoch" not in said["worker", 1]
    check_same_run(tmp_path / "one", tmp_path / "two")
    names = [{p.name for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]


def test_workers_of_different_commands_are_told_so(options, tmp_path):
    workers = Cluster(options("two"), tmp_path)
    workers.start(0)
    workers.start(1, learning_rate=0.5, augment="flip_lr")
    said = workers.end(status=2)
    assert "error: worker 1 was given other flags than worker 0: run" in said["worker", 0]
    assert "--learning_rate=0.5 where worker 0 has 0.003" in said["worker", 1]
    assert "--augment=flip_lr where worker 0 has " in said["worker", 1]
    assert not (tmp_path / "two").exists()


@pytest.mark.large
def test_two_workers_cross_validate_as_one_process_does(image_folder, options, tmp_path):
    folded = tmp_path / "records"
    build_records.main(build_records.Options(source=(str(image_folder),), out=str(folded), folds=2))
    changes = {"records": str(folded), "folds": 2, "epochs": 2}
    train.main(TrainConfig(**options("one", **changes)))
    Cluster(options("two", **changes), tmp_path).start_all().end()
    for fold in ("fold-0", "fold-1"):
        check_same_run(tmp_path / "one" / fold, tmp_path / "two" / fold)
        assert (tmp_path / "two" / fold / "predictions.csv").exists()
    assert (tmp_path / "two" / "predictions.csv").exists()


@pytest.mark.large
def test_a_worker_that_was_killed_comes_back(options, tmp_path):
    """The other one notices, begins again too, and both end as if nothing had happened."""
    train.main(TrainConfig(**options("one", epochs=12)))
    workers = Cluster(options("two", epochs=12), tmp_path).start_all()
    workers.kill_after_an_epoch(1, "worker", tmp_path / "two")
    assert len(log_of(tmp_path / "two")) < 12
    workers.start(1)
    chief = workers.end()["worker", 0]
    assert "a worker was lost" in chief
    assert "resuming" in chief
    # Two workers' sums round otherwise than one's, and twelve epochs enlarge that.
    check_same_run(tmp_path / "one", tmp_path / "two", within=1e-4)
