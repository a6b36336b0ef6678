"""Workers that train together read their own shards, if there are enough of them."""

import itertools
import pathlib

import numpy as np
import pytest

from tfpipe import build_records
from tfpipe.input import pipeline
from tfpipe.input.input_config import InputConfig
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset


@pytest.fixture(scope="module")
def part(image_folder, make_once):
    """64 records in 12 shards, each of 12 kB."""

    def make(folder):
        options = {"source": (str(image_folder),), "out": str(folder), "shards": 12, "workers": 1}
        options |= {"store": "raw:64", "report": False, "splits": "train:0.8,val:0.2"}
        build_records.main(build_records.Options(**options))

    return Subset(manifests.load(make_once("twelve-shards", make)), ("train",))


def epochs_of(part, workers, *, size=12, epochs=2, **changes):
    """The example ids of each worker's batches, by worker and epoch."""
    found = []
    for worker in range(workers):
        config = InputConfig(8, size, worker=worker, workers=workers, **changes)
        batches = pipeline.train_batches(part, config, epochs=epochs)
        ids = [batch["example_id"].numpy().tolist() for batch in batches]
        assert all(len(batch) == size // workers for batch in ids)
        steps = len(ids) // epochs
        found.append([ids[i * steps : (i + 1) * steps] for i in range(epochs)])
    return found


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "size"), [(2, 8), (2, 12), (3, 12)])
def test_together_workers_see_every_record_in_each_epoch(part, workers, size):
    everything = set(joined(epochs_of(part, 1, size=size)[0][0]))
    assert len(everything) == part.count
    found = epochs_of(part, workers, size=size)
    for epoch in range(2):
        seen = [set(joined(worker[epoch])) for worker in found]
        assert set().union(*seen) == everything
        assert sum(map(len, seen)) - len(everything) < workers
        assert {len(worker[epoch]) for worker in found} == {-(-part.count // size)}
    assert all(worker[0] != worker[1] for worker in found), "another order in each epoch"
    assert any(set(joined(w[0])) != set(joined(w[1])) for w in found), "and other shards"


@pytest.mark.slow
def test_the_result_is_the_same_by_seed(part):
    assert epochs_of(part, 3, seed=4) == epochs_of(part, 3, seed=4)
    assert epochs_of(part, 3, seed=4) != epochs_of(part, 3, seed=5)


def test_an_epoch_resumes_where_it_ended(part):
    config = InputConfig(8, 12, worker=1, workers=2)
    whole, rest = (
        [
            batch["example_id"].numpy().tolist()
            for batch in pipeline.train_batches(part, config, **o)
        ]
        for o in ({}, {"first_step": 4})
    )
    assert whole[4:] == rest


def test_with_few_shards_or_a_fold_workers_share_the_rows_of_each_batch(part):
    """Four workers would need 16 shards."""
    (one,), shares = epochs_of(part, 1), epochs_of(part, 4)
    for epoch in range(2):
        for step, rows in enumerate(one[epoch]):
            assert rows == joined(worker[epoch][step] for worker in shares)


def bytes_read(iterate):
    """What this process reads from files meanwhile; see proc_pid_io(5)."""

    def count():
        return int(pathlib.Path("/proc/self/io").read_text().split()[1])

    before = count()
    for _ in iterate:
        pass
    return count() - before


@pytest.mark.slow
def test_each_worker_reads_its_share_of_the_bytes(part):
    def training(worker, workers):
        config = InputConfig(8, 12, worker=worker, workers=workers)
        return pipeline.train_batches(part, config)

    def evaluation(worker, workers):
        return pipeline.eval_batches(
            part, image_size=8, batch_size=12, worker=worker, workers=workers
        )

    for read in (training, evaluation):
        bytes_read(read(0, 1))  # imports what it needs
        whole = bytes_read(read(0, 1))
        assert whole >= part.bytes
        # Of the shards at both ends of a share, others' records are read too.
        shard = part.bytes / len(part.pieces)
        for worker in range(3):
            assert bytes_read(read(worker, 3)) < whole / 3 + 2.5 * shard


def test_workers_evaluate_each_record_once(part):
    found = [
        batch["example_id"].numpy()[batch["sample_weight"].numpy() > 0]
        for worker in range(3)
        for batch in pipeline.eval_batches(
            part, image_size=8, batch_size=4, worker=worker, workers=3
        )
    ]
    ids = np.concatenate(found).tolist()
    assert len(ids) == len(set(ids)) == part.count
