"""A read that fails says nothing of the image: it is tried again, now and by the next build."""

import pathlib

import pytest
from pictures import draw, save

from tfpipe.building import job as jobs
from tfpipe.building import shards
from tfpipe.building.scan import scan
from tfpipe.core.errors import Rejected, ResumableError
from tfpipe.images.image_info import ImageRef
from tfpipe.images.image_table import ImageTable
from tfpipe.images.store import Store
from tfpipe.sources import retry

JPEG = save(draw(40, 60), "JPEG")
REFS = [ImageRef(0, f"{number}.jpg") for number in range(70)]


class Storage:
    """A source whose reads fail as often as `failures` says of a name."""

    path = "in"

    def __init__(self, failures=()):
        self.failures, self.reads = dict(failures), []

    def read(self, name):
        self.reads.append(name)
        if self.failures.get(name, 0):
            self.failures[name] -= 1
            raise Rejected("unreadable", "Input/output error")
        return JPEG

    def locate(self, name):
        return f"in/{name}"


class Here:
    """Runs tasks in this process."""

    def __init__(self, job):
        self.job = job

    def run(self, function, items):
        for item in items:
            function(self.job, item)
            yield item, None


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(retry, "WAITS", (0, 0, 0))


def run(tmp_path, source, most=0):
    job = jobs.Job((source,), str(tmp_path), Store(), 0)
    return job, scan(job, Here(job), ImageTable.of_refs(REFS), max_unreadable=most)


def test_a_read_that_fails_for_a_moment_costs_nothing(tmp_path):
    source = Storage({"3.jpg": 2, "40.jpg": 1, "41.jpg": 2})
    _, (infos, rejects) = run(tmp_path, source)
    assert [info.ref for info in infos] == REFS
    assert rejects == []


def test_what_stays_unreadable_ends_the_build_and_the_next_tries_again(tmp_path):
    words = r"^2 files cannot be read, the first in/40.jpg \(Input/.*again.*`max_rejects=2`$"
    with pytest.raises(ResumableError, match=words):
        run(tmp_path, Storage({"40.jpg": 99, "50.jpg": 99}))
    again = Storage()
    _, (infos, rejects) = run(tmp_path, again)
    assert (len(infos), rejects) == (len(REFS), [])
    assert len(again.reads) < len(REFS)  # only their neighbours are read once more
    assert {"40.jpg", "50.jpg"} <= set(again.reads)


def test_unreadable_files_may_be_allowed_and_are_not_kept(tmp_path):
    _, (infos, rejects) = run(tmp_path, Storage({"40.jpg": 99}), most=1)
    assert len(infos) == len(REFS) - 1
    assert [reject.reason for reject in rejects] == ["unreadable"]
    assert len(run(tmp_path, Storage())[1][0]) == len(REFS)


def test_storage_that_is_gone_does_not_hold_up_the_build(tmp_path):
    source = Storage(dict.fromkeys((ref.name for ref in REFS), 99))
    with pytest.raises(ResumableError, match="70 files"):
        run(tmp_path, source)
    assert len(source.reads) < 1.3 * len(REFS)


def test_a_file_that_cannot_be_read_any_more_ends_the_build(tmp_path):
    job, (infos, _) = run(tmp_path, Storage())
    job.sources[0].failures = {"7.jpg": 99}
    infos.set_texts("split", ["train"] * len(infos))
    plan = shards.plan(infos, ["train"], seed=0, shards=1, shard_bytes=1)
    with pytest.raises(ResumableError, match=r"in/7.jpg. cannot be read any more .*again"):
        shards.write(pathlib.Path(tmp_path), job, Here(job), plan)
