"""A dispatcher and two workers as processes; iterators of this process are the trainers."""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pytest
import tensorflow as tf

from tests.refusals import refused
from tfpipe import build_records, data_service, train
from tfpipe.augment import Augment
from tfpipe.input import pipeline, service
from tfpipe.input.input_config import InputConfig
from tfpipe.records import manifest
from tfpipe.records.subset import Subset

# Three processes import TensorFlow, which takes a minute on a busy machine.
pytestmark = pytest.mark.timeout(300)

ROOT = pathlib.Path(__file__).parent.parent
SHARDS, RECORDS, BATCH = 24, 40, 8
EPOCH = {(shard, number) for shard in range(SHARDS) for number in range(RECORDS)}


class Server:
    """A process of the command under test; `address` is from its ready line."""

    def __init__(self, folder, role, *flags):
        self.log = folder / f"{role}-{uuid.uuid4().hex}.log"
        command = [sys.executable, "-m", "tfpipe.data_service", f"--role={role}", *flags]
        with open(self.log, "w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, cwd=ROOT)

    def ready(self):
        """Waits until it is ready; the time limit of the test ends a longer wait."""
        while not (found := re.search(r" ready on (?:grpc://)?(\S+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        self.address = found[1]
        self.port = found[1].rpartition(":")[2]
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()


class Service:
    """A dispatcher and its workers."""

    def __init__(self, folder):
        self.folder = folder
        self.dispatcher = self.start_dispatcher("0")
        self.address = f"grpc://{self.dispatcher.address}"
        self.workers = [worker.ready() for worker in [self.start_worker(), self.start_worker()]]

    def start_dispatcher(self, port):
        flags = f"--port={port}", f"--work_dir={self.folder / 'journal'}"
        return Server(self.folder, "dispatcher", *flags).ready()

    def start_worker(self, port="0"):
        flags = f"--port={port}", f"--dispatcher={self.dispatcher.address}"
        return Server(self.folder, "worker", *flags)

    def close(self):
        for server in (*self.workers, self.dispatcher):
            server.kill()


# Waits for a batch that never comes.
TRAINER = """
import sys
import tensorflow as tf
from tfpipe.core import terminal
from tfpipe.input import service

endless = tf.data.Dataset.range(10**6).repeat().filter(lambda number: number < 0).batch(1)
endless = service.distribute(endless, sys.argv[1], job="trainer", batch_size=1)
terminal.say("training")
list(service.watched(endless, sys.argv[1], warn_s=1, stall_s=3))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with contextlib.closing(Service(tmp_path_factory.mktemp("service"))) as running:
        yield running


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Record files of "shard,number" records."""
    folder = tmp_path_factory.mktemp("shards")
    paths = [str(folder / f"{shard}.tfrecord") for shard in range(SHARDS)]
    for shard, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(RECORDS):
                writer.write(f"{shard},{number}")
    return paths


def batches(paths, *, open_at_once=4, slow=False):
    """Return the batches of one epoch, made by graph operations only."""

    def decode(record):
        numbers = tf.strings.to_number(tf.strings.split(record, ","), tf.int64)
        return {"image": tf.zeros([8, 8, 3], tf.uint8), "label": numbers, "sample_weight": 1.0}

    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.interleave(tf.data.TFRecordDataset, cycle_length=open_at_once)
    if slow:  # so that an epoch of two workers lasts seconds on any machine
        slow = tf.raw_ops.SleepDataset(
            input_dataset=tf.data.experimental.to_variant(dataset),
            sleep_microseconds=5000,
            output_types=[tf.string],
            output_shapes=[[]],
        )
        dataset = tf.data.experimental.from_variant(slow, tf.TensorSpec([], tf.string))
    return dataset.map(decode, num_parallel_calls=2).batch(BATCH)


class Trainer(threading.Thread):
    """Reads a dataset beside others; `end` waits for its records."""

    def __init__(self, dataset, pause=0.0):
        super().__init__(daemon=True)
        self.dataset, self.pause, self.records = dataset, pause, []
        self.start()

    def run(self):
        for batch in self.dataset:
            assert batch["image"].shape == (BATCH, 8, 8, 3)
            self.records += [tuple(label) for label in batch["label"].numpy().tolist()]
            time.sleep(self.pause)

    def begin(self):
        while len(self.records) < 10 * BATCH:
            time.sleep(0.01)
        return self

    def end(self):
        self.join(120)
        assert not self.is_alive(), f"reads still, after {len(self.records)} records"
        return self.records


def distributed(running, shards, job, **options):
    dataset = batches(shards, **options)
    return service.distribute(dataset, running.address, job=job, batch_size=BATCH)


@pytest.mark.slow  # processes
def test_two_workers_give_each_record_of_each_epoch_once(running, shards):
    for epoch in range(2):
        dataset = distributed(running, shards, f"once/{epoch}")
        assert sorted(Trainer(dataset).end()) == sorted(EPOCH)


@pytest.mark.slow  # processes
@pytest.mark.parametrize("text", ["translate(0.1)", "crop(0.4)|flip_lr"])
def test_the_pipeline_gives_the_same_samples_through_a_service(running, records, text):
    """The same pictures up to rounding, the same labels and random numbers."""
    part = Subset(manifest.load(records), ("train",))
    augment = Augment(text, crop_on_host=True)

    def samples(address):
        """Return the columns of two epochs, sorted by the random numbers."""
        config = InputConfig(48, 7, service=address)
        found = list(pipeline.train_batches(part, config, augment=augment, epochs=2))
        columns = {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}
        _, order = np.unique(columns["random"], axis=0, return_index=True)
        return {key: values[order].astype(float) for key, values in columns.items()}

    here, there = samples(""), samples(running.address)
    assert part.count % 7, "a last batch that is to be filled up"
    assert len(here["label"]) == 2 * part.count
    for key, values in here.items():
        np.testing.assert_allclose(values, there[key], atol=1 if key == "image" else 0)


@pytest.mark.slow  # processes
def test_a_fold_is_held_out_through_a_service(running, image_folder, tmp_path):
    """An epoch that begins at a step has fewer batches."""
    options = {"source": (str(image_folder),), "out": str(tmp_path / "folded"), "folds": 2}
    build_records.main(build_records.Options(**options, report=False, workers=1))
    folded = manifest.load(tmp_path / "folded")
    held_out, part = (Subset(folded, ("all",), fold=1, held_out=each) for each in (True, False))
    config = InputConfig(16, 8, service=running.address)
    steps = pipeline.steps_per_epoch(part, 8)
    found = list(pipeline.train_batches(part, config, first_step=2, epochs=2))
    assert len(found) == 2 * steps - 2
    evaluated = pipeline.eval_batches(held_out, image_size=16, batch_size=held_out.count)
    (others,) = (set(batch["example_id"].numpy().tolist()) for batch in evaluated)
    for epoch in (found[: steps - 2], found[steps - 2 :]):
        real = [batch["example_id"][batch["sample_weight"] > 0].numpy() for batch in epoch]
        numbers = np.concatenate(real).tolist()
        assert len(set(numbers) - others) == len(numbers)


@pytest.mark.slow
def test_training_takes_its_batches_from_a_service(running, tiny_config, tmp_path):
    run = tmp_path / "run"
    options = {"data_service": running.address, "resize_on": "device", "epochs": 1}
    options["sampling"] = "balanced"
    train.main(tiny_config(run_dir=str(run), **options))
    assert (run / "log.csv").read_text().count("\n") == 2


@pytest.mark.slow  # processes
def test_trainers_of_a_job_share_an_epoch_without_overlap(running, shards):
    jobs = [distributed(running, shards, "shared", slow=True) for _ in range(2)]
    first, second = (each.end() for each in [Trainer(job, pause=0.05) for job in jobs])
    assert first
    assert second
    assert sorted(first + second) == sorted(EPOCH)


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_loses_only_what_it_had_begun(running, shards):
    trainer = Trainer(distributed(running, shards, "killed/0", slow=True)).begin()
    running.workers[1].kill()
    running.workers[1] = running.start_worker(running.workers[1].port).ready()
    seen = trainer.end()
    assert len(set(seen)) == len(seen)
    assert set(seen) <= EPOCH
    assert 0 < len(EPOCH) - len(seen) <= 16 * RECORDS
    assert sorted(Trainer(distributed(running, shards, "killed/1")).end()) == sorted(EPOCH)


def test_lost_records_are_counted_and_said(monkeypatch, records, capsys):
    """A service that gives half of an epoch, as after the loss of a worker."""
    part = Subset(manifest.load(records), ("train",))
    monkeypatch.setattr(
        service, "distribute", lambda dataset, *_, **__: dataset.take(part.count // 16)
    )
    found = list(pipeline.train_batches(part, InputConfig(16, 8, service="grpc://127.0.0.1:1")))
    assert len(found) == part.count // 16 + 1
    assert found[-1] is None
    missing = part.count - part.count // 16 * 8
    assert f"{missing} of {part.count} records are missing" in capsys.readouterr().err


@pytest.mark.slow
def test_a_restarted_dispatcher_goes_on_with_the_epoch(running, shards):
    trainer = Trainer(distributed(running, shards, "restart", slow=True)).begin()
    running.dispatcher.kill()
    running.dispatcher = running.start_dispatcher(running.dispatcher.port)
    assert sorted(trainer.end()) == sorted(EPOCH)


@pytest.mark.slow
def test_signals_end_a_server_in_the_middle_of_a_job(tmp_path, shards):
    """A trainer, which TensorFlow lets wait for ever, ends when no batch comes."""
    with contextlib.closing(Service(tmp_path)) as own:
        dataset = distributed(own, shards, "endless", slow=True)
        with open(tmp_path / "trainer.log", "w") as stderr:
            trainer = subprocess.Popen(
                [sys.executable, "-c", TRAINER, own.address], stderr=stderr, cwd=ROOT
            )
        iterator = iter(dataset.repeat())
        next(iterator)
        while "training" not in (tmp_path / "trainer.log").read_text():
            assert trainer.poll() is None
            time.sleep(0.05)
        for server, number in (
            (own.workers[0], signal.SIGTERM),
            (own.workers[1], signal.SIGINT),
            (own.dispatcher, signal.SIGTERM),
        ):
            server.process.send_signal(number)
            assert server.process.wait(30) == 0, server.log.read_text()
            assert server.log.read_text().splitlines()[-1] == "stopped"
        assert trainer.wait(60) == 1
        log = (tmp_path / "trainer.log").read_text()
        assert f"warning: data service {own.address}: " in log
        assert f"error: data service {own.address}: " in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"role": "worker"}, "--dispatcher is missing"),
        ({"role": "worker", "dispatcher": "nowhere"}, "`dispatcher=nowhere` is no address"),
        ({"role": "worker", "dispatcher": "a:70000"}, "`dispatcher=a:70000` is no address"),
        ({"role": "worker", "dispatcher": "a:1", "worker_address": "b:x"}, "`worker_address=b:x`"),
        ({"role": "worker", "dispatcher": "a:1", "work_dir": "w"}, "--work_dir has no meaning"),
        ({"role": "dispatcher", "dispatcher": "a:1"}, "--dispatcher has no meaning"),
        ({"role": "worker", "dispatcher_timeout_s": 0.0}, "--dispatcher_timeout_s=0.0"),
        ({"role": "dispatcher", "work_dir": "{file}/work"}, "cannot start the dispatcher"),
        ({"role": "dispatcher", "port": "{taken}"}, "cannot listen there"),
        (
            {"role": "worker", "dispatcher": "127.0.0.1:{taken}", "dispatcher_timeout_s": 0.5},
            "no dispatcher has answered for 0.5 s",
        ),
    ],
)
def test_mistakes_are_reported_in_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # main() sets it
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"file": tmp_path / "file", "taken": taken.getsockname()[1]}
        flags = {
            name: type(flags[name])(value.format(**values)) if isinstance(value, str) else value
            for name, value in flags.items()
        }
        flags["port"] = int(flags.get("port", 0))
        with refused(re.escape(message)):
            data_service.main(data_service.Options(**flags))


@pytest.mark.parametrize(
    "address",
    "h h:1 grpc://h grpc://:1 grpc://h:0 grpc://h:65536 grpc://::1:5 grpc://h:1/x".split(),
)
def test_wrong_addresses_are_refused(address):
    for right in ("", "grpc://127.0.0.1:5050", "grpc://[::1]:1", "grpc://h:65535"):
        assert service.parse(right) == right
    with refused(re.escape(f"`data_service={address}`")):
        service.parse(address)


@pytest.mark.slow  # processes
def test_a_refusal_of_the_dispatcher_is_reported_in_one_line(running, shards):
    distributed(running, shards, "taken")
    other = tf.data.Dataset.range(3).batch(2)
    with refused("does not take the dataset of job taken"):
        service.distribute(other, running.address, job="taken", batch_size=2)
    worker = f"grpc://{running.workers[0].address}"
    with refused(re.escape(f"`data_service={worker}` does not take")):
        service.distribute(other, worker, job="worker", batch_size=2)
