"""Several devices or machines train like one; a lost worker ends the others with status 75."""

import contextlib
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
from conftest import ROOT, TINY
from test_update import OPTIMIZERS

from tests.refusals import refused
from tests.training import check_same_run, log_of, save_backbone
from tfpipe import build_records, train
from tfpipe.training import cluster as clusters
from tfpipe.training import strategy, update
from tfpipe.training.train_config import TrainConfig

TWO = ["localhost:1234", "localhost:1235"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not JSON"),
        ("[]", "not an object"),
        ('{"cluster": []}', None),
        ('{"cluster": 3}', "not an object"),
        ({"cluster": {"worker": "localhost:1"}}, '"worker" that is not a list of HOST:PORT'),
        ({"cluster": {"worker": ["localhost"]}}, '"worker" that is not a list of HOST:PORT'),
        ({"cluster": {"worker": ["localhost:99999"]}}, "not a list of HOST:PORT"),
        ({"cluster": {"worker": TWO, "ps": TWO}}, "task of kind 'ps'"),
        ({"cluster": {"worker": TWO}}, 'has no "task"'),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker"}}, 'has no "task"'),
        ({"cluster": {"worker": TWO}, "task": {"type": "chief", "index": 0}}, "task chief 0"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 2}}, "task worker 2"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": "x"}}, "task worker x"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": "²"}}, "task worker ²"),
        ({"cluster": {"worker": TWO}, "task": {"type": ["worker"], "index": 0}}, "which is not in"),
        ({"cluster": {"chief": TWO}, "task": {"type": "chief", "index": 0}}, "several chiefs"),
    ],
)
def test_what_is_wrong_with_tf_config_is_explained(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text if isinstance(text, str) else json.dumps(text))
    with refused(message) if message else contextlib.nullcontext():
        strategy.choose("auto")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multi_worker", "TF_CONFIG names no workers"),
        ("parameter_server", "give `strategy=multi_worker`"),
        ("everything", "one_device, mirrored, multi_worker, tpu"),
        ("tpu", "strategy=tpu.*no TPU"),
    ],
)
def test_a_strategy_that_cannot_be_had_is_explained(monkeypatch, name, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with refused(message):
        strategy.choose(name)


def test_one_device_is_tensorflows_default(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name in ("auto", "one_device"):
        assert strategy.choose(name) is tf.distribute.get_strategy()
    assert strategy.choose("mirrored").num_replicas_in_sync == 1


def test_the_error_of_a_batch_that_devices_cannot_share_names_one_that_they_can():
    three = types.SimpleNamespace(num_replicas_in_sync=3, cluster_resolver=None)
    cluster = clusters.Cluster(three)
    cluster.check(18)
    with refused(r"among 3 devices.*batch_size=18") as error:
        cluster.check(16)
    assert error.value.status == 2


def test_a_lost_worker_is_an_error_with_status_75(monkeypatch):
    """A single process has none to lose, so its error is another's."""
    message = "Graph execution error:\nDetected at x\nCollective ops is aborted by: gone\nOp"
    lost = tf.errors.UnavailableError(None, None, message)
    task = {"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    with refused(r"lost \(gone\)") as error, strategy.explained_losses():
        raise lost
    assert error.value.status == 75
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(tf.errors.UnavailableError), strategy.explained_losses():
        raise lost


@pytest.fixture
def options(records, tmp_path):
    """Returns a function from the name of a run and changed options to its options."""
    # Without dropout, whose masks differ from device to device.
    base = {**TINY, "records": str(records), "backbones": save_backbone(tmp_path)}
    base |= {"calibration": "none", "tta": "", "strategy": "auto"}
    base |= {"clip_norm": 1.0, "average": "ema(0.9)"}
    return lambda name, **changes: {**base, "run_dir": str(tmp_path / name), **changes}


STAGES = "head:epochs=1,lr=1e-2;all:from=all,epochs=2,backbone_lr=1e-3,accumulate_steps=3"

MIRRORED = """
import json, sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from tfpipe import train
from tfpipe.training.train_config import TrainConfig
for options in json.loads(sys.argv[1]):
    train.main(TrainConfig(**options))
"""


def run_script(code, *args):
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.large
def test_mirrored_devices_train_like_one(options, tmp_path):
    """In stages, from cached features and from images."""
    changes = {"stages": STAGES, "feature_views": 2, "pooling": "avg"}
    strategies = {"one": "one_device", "two": "mirrored"}
    runs = [options(name, strategy=each, **changes) for name, each in strategies.items()]
    done = run_script(MIRRORED, json.dumps(runs))
    assert "each batch shared by 2 devices" in done.stderr
    check_same_run(tmp_path / "one", tmp_path / "two")


PLACES = """
import json, sys
from unittest import mock
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from tfpipe import train
from tfpipe.training import steps
from tfpipe.training.train_config import TrainConfig

def places(batch):
    return {
        name: [[part.device[-5:], part.backing_device[-5:], len(part)] for part in value.values]
        for name, value in batch.items() if name != "example_id"
        for value in (value if name == "features" else [value])
    }

seen, original = [], steps._for_step
def watched(batch):
    seen.append(places(batch))
    return original(batch)
with mock.patch.object(steps, "_for_step", watched):
    for options in json.loads(sys.argv[1]):
        train.main(TrainConfig(**options))
print(json.dumps(seen))
"""


@pytest.mark.slow  # a process
@pytest.mark.timeout(300)
def test_the_rows_of_each_replica_lie_on_its_device(options):
    """In training and validation, of images and of cached features; no other device has them."""
    runs = {
        "images": {"epochs": 1, "resize_on": "device"},
        "features": {"epochs": 1, "stages": "head", "augment": "", "pooling": "avg"},
    }
    runs = [options(name, strategy="mirrored", **changes) for name, changes in runs.items()]
    done = run_script(PLACES, json.dumps(runs))
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {name for batch in seen for name in batch} == {
        *("image", "size", "random", "features", "label", "sample_weight")
    }
    for batch in seen:
        for name, parts in batch.items():
            assert parts == [["CPU:0", "CPU:0", 8], ["CPU:1", "CPU:1", 8]], name


UPDATES = """
import sys
import numpy as np
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from tfpipe.training.train_config import TrainConfig
from tfpipe.training.cluster import share_out
from tfpipe.training.update import Update

def trained(strategy, name, float16):
    config = TrainConfig(records="", run_dir="", optimizer=name, learning_rate=0.1, clip_norm=0.5,
                         accumulate_steps=2, schedule="cosine(4)", backbone_learning_rate="0.01")
    data = np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)
    with strategy.scope():
        weights = [tf.Variable(tf.ones([3, 2])), tf.Variable(tf.zeros([2]))]
        update = Update(config, weights, backbone=[(weights[0], 0)], steps=3, float16=float16)
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

for name in sys.argv[1].split(","):
    for float16 in (False, True)[: 1 + (name in ("adam", "nadam"))]:
        one = trained(tf.distribute.get_strategy(), name, float16)
        other = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), name, float16)
        assert np.abs(one[1]).max() > 1e-5, name
        for a, b in zip(one, other):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
"""


@pytest.mark.slow  # a process
@pytest.mark.timeout(300)
def test_every_optimizer_updates_mirrored_weights_alike():
    run_script(UPDATES, ",".join(OPTIMIZERS - {"lookahead"}))


def test_an_optimizer_that_cannot_be_mirrored_is_refused():
    config = TrainConfig(records="", run_dir="", optimizer="lookahead")
    with refused("cannot train on 2 devices: give radam"):
        update.check(config, 3, 2)


class Cluster:
    """The processes of one training by two workers."""

    def __init__(self, options, log):
        with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
            self._addresses = [f"localhost:{each.getsockname()[1]}" for each in (one, other)]
        self._options, self._log = options, log
        self.processes = {}

    def start(self, index, **changes):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": self._addresses}, "task": task})
        flags = [f"--{name}={value}" for name, value in (self._options | changes).items()]
        command = [sys.executable, "-m", "tfpipe.train", *flags]
        environment = {**os.environ, "TF_CONFIG": config}
        with open(self._log / f"{index}.log", "a") as log:
            self.processes[index] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=ROOT
            )

    def start_all(self):
        for index in range(2):
            self.start(index)
        return self

    def kill_after_an_epoch(self, index, run_dir):
        log = run_dir / "log.csv"
        while not log.exists() and self.processes[index].poll() is None:
            time.sleep(0.02)
        killed = self.processes.pop(index)
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    def end(self, status=0):
        """Waits for all to end with that status, and returns the log of each, by index."""
        try:
            for process in self.processes.values():
                process.wait()
        finally:
            for process in self.processes.values():
                process.kill()
        logs = {index: (self._log / f"{index}.log").read_text() for index in self.processes}
        for index, process in self.processes.items():
            assert process.returncode == status, (index, logs)
        return logs


@pytest.mark.slow  # processes
@pytest.mark.timeout(300)
def test_two_workers_train_like_one_process(options, tmp_path):
    train.main(TrainConfig(**options("one", stages=STAGES)))
    logs = Cluster(options("two", stages=STAGES), tmp_path).start_all().end()
    assert "each batch shared by 2 devices" in logs[0]
    assert "epoch" not in logs[1]
    check_same_run(tmp_path / "one", tmp_path / "two")
    names = [{p.name for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.slow  # processes
@pytest.mark.timeout(300)
def test_workers_with_different_options_are_refused(options, tmp_path):
    workers = Cluster(options("two"), tmp_path)
    workers.start(0)
    workers.start(1, learning_rate=0.5, augment="flip_lr")
    logs = workers.end(status=2)
    assert "error: worker 1 has other options than worker 0" in logs[0]
    assert "--learning_rate=0.5 where worker 0 has 0.003" in logs[1]
    assert "--augment=flip_lr where worker 0 has " in logs[1]
    assert not (tmp_path / "two").exists()


@pytest.mark.large
@pytest.mark.timeout(900)
def test_two_workers_cross_validate_like_one_process(image_folder, options, tmp_path):
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
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_other_and_both_resume(options, tmp_path, lost):
    train.main(TrainConfig(**options("one", epochs=12)))
    workers = Cluster(options("two", epochs=12), tmp_path).start_all()
    workers.kill_after_an_epoch(lost, tmp_path / "two")
    assert len(log_of(tmp_path / "two")) < 12
    assert "another worker was lost" in workers.end(status=75)[1 - lost]
    assert "resuming" in workers.start_all().end()[0]
    # Two workers' sums round otherwise than one's, and twelve epochs enlarge that.
    check_same_run(tmp_path / "one", tmp_path / "two", within=1e-4)
