"""A pool loses only the item at fault, whatever a decoder does to its process."""

import importlib
import os
import pathlib
import signal
import threading
import time

import PIL.Image
import processes
import pytest
from worker_tasks import Broken, SlowStorage, do

from tfpipe import sources
from tfpipe.building import shards, workers
from tfpipe.building.job import Job
from tfpipe.building.scan import scan
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.images.image_info import ImageInfo, ImageRef
from tfpipe.images.image_table import ImageTable
from tfpipe.images.store import Store, parse


@pytest.fixture
def job(tmp_path):
    return Job((), str(tmp_path), Store(), 0)


def forked():
    """Returns the workers of this process: what its fork server has for children."""
    return [pid for child in processes.children(os.getpid()) for pid in processes.children(child)]


def assert_no_worker_is_left():
    deadline = time.monotonic() + 20
    while forked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert forked() == []


def test_what_a_process_dies_of_costs_one_item(job, monkeypatch):
    monkeypatch.setattr(workers, "SECONDS", 0.5)
    bad = {
        "exit": ("crash", "exit status 3"),
        "segfault": ("crash", "signal 11"),
        "killed": ("crash", "signal 9"),
        "hang": ("too slow", "more than 0.5 s"),
        "spin": ("too slow", "more than 0.5 s"),
        "deaf": ("too slow", "more than 0.5 s"),
        "memory": ("too large", "memory"),
    }
    items = [f"good {i}" for i in range(60)] + ["slow storage"]
    for position, what in enumerate(bad):
        items.insert(9 * position, what)
    with workers.Pool(job, 2) as pool:
        done = list(pool.run(do, items))
        assert forked() != []
    assert sorted(item for item, _ in done) == sorted(items)  # each once
    lost = {item: why for item, why in done if why is not None}
    assert lost.keys() == bad.keys()
    for what, (reason, words) in bad.items():
        assert lost[what].reason == reason
        assert words in lost[what].detail
    assert_no_worker_is_left()


def test_workers_killed_from_outside(job):
    items = [f"nap {i}" for i in range(24)] + [f"exit {i}" for i in range(4)]
    done = {}
    with workers.Pool(job, 2) as pool:
        for item, lost in pool.run(do, items):
            done[item] = lost
            if len(done) in (4, 10, 16):
                os.kill(forked()[0], signal.SIGKILL)
    assert done.keys() == set(items)
    lost = [why for item, why in done.items() if why is not None and item.startswith("nap")]
    assert len(lost) <= 3
    assert {done[f"exit {i}"].reason for i in range(4)} == {"crash"}
    assert {why.detail for why in lost} <= {"the process that decoded it ended (signal 9)"}


def test_idle_workers_that_are_killed_are_replaced(job):
    done = []
    with workers.Pool(job, 1) as pool:
        for item, lost in pool.run(do, [f"good {i}" for i in range(30)]):
            done.append((item, lost))
            if len(done) in (1, 12):  # those given to the pool are done, the next are not given yet
                time.sleep(0.5)
                for pid in forked():
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.5)
    assert len({item for item, _ in done}) == len(done) == 30
    assert {why for _, why in done} == {None}


def test_images_that_are_too_large_only_together_are_all_good(tmp_path, monkeypatch):
    """As 64 photographs are that are stored as raw:2048."""
    monkeypatch.setattr(workers, "MEMORY_BYTES", 128 * 2**20)
    (tmp_path / "in").mkdir()
    for i in range(20):
        PIL.Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"in/{i}.png")
    source = sources.open_source(str(tmp_path / "in"))
    job = Job((source,), str(tmp_path / "work"), parse("raw:2000"), 0)  # 12 MB each
    items = [ImageRef(0, name) for name in source.names()]
    with workers.Pool(job, 2) as pool:
        infos, lost = scan(job, pool, ImageTable.of_refs(items))
    assert lost == []
    assert [each.ref for each in infos] == items
    assert all(isinstance(each, ImageInfo) and each.bytes == 12 * 10**6 for each in infos)


@pytest.mark.slow
def test_slow_storage_is_no_slow_image(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SECONDS", 0.5)
    job = Job((SlowStorage(),), str(tmp_path), Store(), 0)
    with workers.Pool(job, 2) as pool:
        infos, lost = scan(job, pool, ImageTable.of_refs(ImageRef(0, name) for name in "abc"))
        infos.set_texts("split", ["train"] * len(infos))
        plans = shards.plan(infos, ["train"], seed=0, shards=1, shard_bytes=1)
        (written,) = shards.write(tmp_path, job, pool, plans)
    assert (len(infos), lost, written.records) == (3, [], 3)


def test_a_complete_result_of_a_lost_process_counts(tmp_path):
    class Runner:
        def run(self, function, items):
            for item in items:
                function(job, item)
                yield item, workers.LostTask("crash", "of the next task")

    (tmp_path / "in").mkdir()
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "in/a.png")
    job = Job((sources.open_source(str(tmp_path / "in")),), str(tmp_path / "work"), Store(), 0)
    infos, lost = scan(job, Runner(), ImageTable.of_refs([ImageRef(0, "a.png")]))
    assert (len(infos), lost) == (1, [])


def test_a_pool_is_used_again(job):
    importlib.import_module("tensorflow")  # workers do without
    with workers.Pool(job, 2) as pool:
        for _ in range(2):
            done = dict(pool.run(do, ["good 1", "exit 1", "threads", "limits", "light"]))
            assert {item: why is None for item, why in done.items()} == {
                "good 1": True,
                "exit 1": False,
                "threads": True,
                "limits": True,
                "light": True,
            }
        assert list(pool.run(do, [])) == []
    assert os.environ.get("OMP_NUM_THREADS") != "1"


def test_processes_that_do_not_start_are_one_line(job, capfd):
    broken = Job((Broken(),), job.work, job.store, 0)
    words = pytest.raises(ResumableError, match=r"worker processes end.*workers")
    with words, workers.Pool(broken, 2) as pool:
        list(pool.run(do, ["good"]))
    assert "Traceback" not in capfd.readouterr().err
    assert_no_worker_is_left()


def test_a_mistake_found_in_a_task_is_raised(job):
    items = [f"{'mistake' if i == 3 else 'good'} {i}" for i in range(9)]
    with pytest.raises(UserError) as caught, workers.Pool(job, 2) as pool:
        list(pool.run(do, items))
    assert str(caught.value) == "mistake 3 is wrong: mend it"
    assert caught.value.status == 7
    assert_no_worker_is_left()


@pytest.mark.parametrize("items", [["nap 0"], ["good 0"]])
def test_an_interrupt_leaves_no_process(job, items):
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), workers.Pool(job, 2) as pool:
        while True:  # while it waits, or starts a process, or is given tasks
            list(pool.run(do, items * 20))
    assert_no_worker_is_left()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_abandoned_run_leaves_no_process(job):
    with workers.Pool(job, 2) as pool:
        for _ in pool.run(do, [f"nap {i}" for i in range(50)]):
            break
    assert_no_worker_is_left()
    assert not list(pathlib.Path(job.work).iterdir())
