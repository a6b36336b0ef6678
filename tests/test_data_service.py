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

import numpy as np
import pytest
import tensorflow as tf

from tfpipe import build_records, data_service, train
from tfpipe.augment import Augment
from tfpipe.core.errors import UserError
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

    def __init__(self, log, *flags):
        self.log = log
        with open(log, "w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tfpipe.data_service", *flags], stderr=stderr, cwd=ROOT
            )

    def wait_until_ready(self):
        pattern = r"^(?:dispatcher|worker) ready on (?:grpc://)?(\S+)"
        deadline = time.monotonic() + 150
        while not (ready := re.search(pattern, self.log.read_text(), re.M)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.address = ready[1]
        self.port = ready[1].rpartition(":")[2]
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()


class Service:
    """A dispatcher and its workers."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.dispatcher = self.start_dispatcher("0")
        self.address = f"grpc://{self.dispatcher.address}"
        both = [self.start_worker(), self.start_worker()]
        self.workers = [worker.wait_until_ready() for worker in both]

    def start_dispatcher(self, port):
        flags = [f"--port={port}", f"--work_dir={self.folder / 'journal'}"]
        return Server(self.log(), "--role=dispatcher", *flags).wait_until_ready()

    def start_worker(self, port="0"):
        dispatcher = f"--dispatcher={self.dispatcher.address}"
        return Server(self.log(), "--role=worker", dispatcher, f"--port={port}")

    def log(self):
        self.count += 1
        return self.folder / f"{self.count}.log"

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


def wait_for(log, text):
    deadline = time.monotonic() + 150
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


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


def read(dataset, pause=0.0):
    """Yield each batch's records."""
    for batch in dataset:
        assert batch["image"].shape == (BATCH, 8, 8, 3)
        yield [tuple(label) for label in batch["label"].numpy().tolist()]
        time.sleep(pause)


def all_of(dataset, pause=0.0):
    return [record for batch in read(dataset, pause) for record in batch]


class Trainer(threading.Thread):
    """Reads a dataset beside others; `within` waits for its end."""

    def __init__(self, dataset, pause=0.0):
        super().__init__(daemon=True)
        self.batches, self.source = [], read(dataset, pause)
        self.start()

    def run(self):
        self.batches.extend(self.source)

    def within(self, seconds):
        self.join(seconds)
        assert not self.is_alive(), f"reads still, after {len(self.batches)} batches"
        return [record for batch in self.batches for record in batch]


def test_two_workers_give_each_record_of_each_epoch_once(running, shards):
    for epoch in range(2):
        job = f"once/{epoch}"
        dataset = service.distribute(batches(shards), running.address, job=job, batch_size=BATCH)
        assert dataset.element_spec["image"].shape.as_list() == [None, 8, 8, 3]
        assert sorted(all_of(dataset)) == sorted(EPOCH)


def test_the_pipeline_gives_the_same_samples_through_a_service(running, records):
    """The same pictures up to rounding, the same labels and random numbers."""
    part = Subset(manifest.load(records), ("train",))
    augment = Augment("translate(0.1)")
    found = {}
    for address in ("", running.address):
        config = InputConfig(48, 7, service=address)
        found[address] = {}
        for batch in pipeline.train_batches(part, config, augment=augment, epochs=2):
            assert batch["sample_weight"].numpy().sum() == pytest.approx(7)
            for image, label, numbers, number in zip(
                *(batch[key].numpy() for key in ("image", "label", "random", "example_id")),
                strict=True,
            ):
                found[address][numbers.tobytes()] = image.astype(int), int(label), int(number)
    here, there = found.values()
    assert part.count % 7, "a last batch that is to be filled up"
    assert len(here) == len(there) == 2 * part.count
    for key in here:
        assert here[key][1:] == there[key][1:]
        assert abs(here[key][0] - there[key][0]).max() <= 1


def test_a_fold_is_held_out_through_a_service(running, image_folder, tmp_path):
    """An epoch that begins at a step has fewer batches."""
    out = tmp_path / "folded"
    build_records.main(
        build_records.Options(
            source=(str(image_folder),), out=str(out), folds=2, report=False, workers=1
        )
    )
    held_out, part = (
        Subset(manifest.load(out), ("all",), fold=1, held_out=held_out)
        for held_out in (True, False)
    )
    config = InputConfig(16, 8, service=running.address)
    steps = pipeline.steps_per_epoch(part, 8)
    found = list(pipeline.train_batches(part, config, first_step=2, epochs=2))
    assert len(found) == 2 * steps - 2
    evaluated = pipeline.eval_batches(held_out, image_size=16, batch_size=held_out.count)
    (others,) = (set(batch["example_id"].numpy().tolist()) for batch in evaluated)
    for epoch in (found[: steps - 2], found[steps - 2 :]):
        real = [batch["example_id"].numpy()[batch["sample_weight"].numpy() > 0] for batch in epoch]
        numbers = np.concatenate(real).tolist()
        assert len(set(numbers)) == len(numbers)
        assert not others & set(numbers)


@pytest.mark.slow
def test_training_takes_its_batches_from_a_service(running, tiny_config, tmp_path):
    run = tmp_path / "run"
    train.main(tiny_config(run_dir=str(run), data_service=running.address, resize_on="device"))
    assert (run / "log.csv").read_text().count("\n") >= 2


def test_trainers_of_a_job_share_an_epoch_without_overlap(running, shards):
    def trainer():
        dataset = batches(shards, slow=True)
        return service.distribute(dataset, running.address, job="shared", batch_size=BATCH)

    both = [Trainer(trainer(), pause=0.05) for _ in range(2)]
    first, second = (trainer.within(120) for trainer in both)
    assert first
    assert second
    assert len(set(first + second)) == len(first) + len(second)
    assert set(first + second) == EPOCH


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_loses_only_what_it_had_begun(running, shards):
    dataset = batches(shards, slow=True)
    dataset = service.distribute(dataset, running.address, job="killed/0", batch_size=BATCH)
    trainer = Trainer(dataset)
    while len(trainer.batches) < 10:
        time.sleep(0.01)
    running.workers[1].kill()
    running.workers[1] = running.start_worker(running.workers[1].port).wait_until_ready()
    seen = trainer.within(100)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= EPOCH
    assert 0 < len(EPOCH) - len(seen) <= 16 * RECORDS
    whole = service.distribute(batches(shards), running.address, job="killed/1", batch_size=BATCH)
    assert sorted(Trainer(whole).within(120)) == sorted(EPOCH)


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
    dataset = batches(shards, slow=True)
    dataset = service.distribute(dataset, running.address, job="restart", batch_size=BATCH)
    trainer = Trainer(dataset)
    while len(trainer.batches) < 10:
        time.sleep(0.01)
    running.dispatcher.kill()
    running.dispatcher = running.start_dispatcher(running.dispatcher.port)
    assert sorted(trainer.within(120)) == sorted(EPOCH)


@pytest.mark.slow
def test_signals_end_a_server_in_the_middle_of_a_job(tmp_path, shards):
    """A trainer, which TensorFlow lets wait for ever, ends when no batch comes."""
    with contextlib.closing(Service(tmp_path)) as own:
        dataset = batches(shards, slow=True)
        dataset = service.distribute(dataset, own.address, job="endless", batch_size=BATCH)
        with open(tmp_path / "trainer.log", "w") as stderr:
            trainer = subprocess.Popen(
                [sys.executable, "-c", TRAINER, own.address], stderr=stderr, cwd=ROOT
            )
        iterator = iter(dataset.repeat())
        next(iterator)
        wait_for(tmp_path / "trainer.log", "training")
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
        ({"role": "dispatcher", "port": 70000}, "--port=70000: give 0 to 65535"),
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
        with pytest.raises(UserError, match=re.escape(message)) as raised:
            data_service.main(data_service.Options(**flags))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "address", ["", "grpc://127.0.0.1:5050", "grpc://[::1]:1", "grpc://h:65535"]
)
def test_addresses_that_are_right(address):
    assert service.parse(address) == address


@pytest.mark.parametrize(
    "address",
    "h h:1 grpc://h grpc://:1 grpc://h:0 grpc://h:65536 grpc://::1:5 grpc://h:1/x".split(),
)
def test_addresses_that_are_wrong(address):
    with pytest.raises(UserError, match=re.escape(f"`data_service={address}`")):
        service.parse(address)


def test_a_trainer_does_not_wait_for_ever_for_a_dispatcher(shards):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"no dispatcher has answered for 0\.5 s"):
            service.distribute(batches(shards), address, job="j", batch_size=BATCH, timeout_s=0.5)


def test_a_refusal_of_the_dispatcher_is_reported_in_one_line(running, shards):
    service.distribute(batches(shards), running.address, job="taken", batch_size=BATCH)
    other = tf.data.Dataset.range(3).batch(2)
    with pytest.raises(UserError, match="does not take the dataset of job taken") as raised:
        service.distribute(other, running.address, job="taken", batch_size=2)
    assert "\n" not in str(raised.value)
    worker = f"grpc://{running.workers[0].address}"
    with pytest.raises(UserError, match=re.escape(f"`data_service={worker}` does not take")):
        service.distribute(other, worker, job="worker", batch_size=2)
