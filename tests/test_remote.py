"""URLs: ram:// of TensorFlow and memory:// of fsspec within this process, file:// for several."""

import csv
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import uuid

import fsspec
import pytest
import tensorflow as tf
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from tests.refusals import refused
from tfpipe import build_records, sources, verify_records
from tfpipe.core import remote, storage
from tfpipe.input import pipeline
from tfpipe.input.input_config import InputConfig
from tfpipe.records import manifest, rejects, verify
from tfpipe.records.subset import Subset
from tfpipe.sources import source as bounds

ROOT = pathlib.Path(__file__).parents[1]
HERE = "--runner=DirectRunner --direct_running_mode=in_memory"


@pytest.fixture
def ram():
    """A folder in memory, empty and alone."""
    url = f"ram://test-{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(url)
    yield url
    tf.io.gfile.rmtree(url)


@pytest.fixture(params=["ram", "memory"])
def bucket(request):
    """A folder in memory, of TensorFlow and of fsspec."""
    if request.param == "ram":
        return request.getfixturevalue("ram")
    return f"memory://test-{uuid.uuid4().hex}"


@pytest.fixture(params=["disk", "file", "ram", "memory"])
def folder(request, tmp_path):
    if request.param == "ram":
        return remote.to_path(request.getfixturevalue("ram"))
    if request.param == "memory":
        url = f"memory://test-{uuid.uuid4().hex}"
        storage.make_folder(url)
        return remote.to_path(url)
    return remote.to_path(tmp_path if request.param == "disk" else f"file://{tmp_path}")


def upload(source, url):
    for path in sorted(source.rglob("*")):
        if path.is_file():
            storage.write_whole(f"{url}/{path.relative_to(source)}", path.read_bytes())
    return url


def contents(url):
    return {name: storage.read_whole(f"{url}/{name}") for name in storage.names_in(url)}


def build(source, out, **changes):
    options = {"source": (str(source),), "out": str(out), "shards": 2, "workers": 2}
    options |= {"report": False, "quiet": True}
    if str(out).startswith("ram:"):  # other processes do not see it
        options |= {"runner": "beam", "beam_args": HERE}
    build_records.main(build_records.Options(**{**options, **changes}))
    return manifest.load(out)


def test_files(folder):
    path = folder / "a" / "b.bin"
    assert storage.read_whole(path) is None
    assert storage.names_in(folder / "a") == []
    assert not storage.exists(path)
    with pytest.raises(FileNotFoundError):
        storage.size(path)
    data = bytes(range(256)) * 9000  # more than one block of a remote file
    storage.write_whole(path, data)
    storage.write_whole(path, data)  # replaces it
    assert storage.names_in(folder / "a") == ["b.bin"]
    assert storage.size(path) == len(data)
    assert storage.read_whole(path) == data
    assert storage.read_whole(path, 255, 3) == b"\xff\0\1"
    assert storage.read_whole(path, len(data) - 1, 10) == b"\xff"
    assert storage.read_whole(path, len(data) + 5, 10) == b""
    with storage.open_to_read(path) as file:
        assert file.seek(-2, 2) == len(data) - 2
        assert file.read() == b"\xfe\xff"
        assert file.read(1) == b""
        assert file.seek(1) == file.tell() == 1
        assert file.seek(1, 1) == 2
        assert file.read(2**21) == data[2 : 2 + 2**21]
    storage.rename(path, folder / "a" / "c")
    assert storage.names_in(folder / "a") == ["c"]
    with pytest.raises(OSError, match="not a regular file"):
        storage.size(folder / "a")
    storage.remove(folder / "a" / "c")
    assert storage.names_in(folder / "a") == []
    storage.write_whole(path, b"")
    assert storage.read_whole(path) == b""
    storage.remove_tree(folder / "a")
    assert not storage.exists(path)
    storage.remove_tree(folder / "a")  # gone already


def test_a_file_appears_whole_or_not_at_all(folder):
    for make in (storage.whole_file, lambda path: storage.atomic_file(path, "wb")):
        with pytest.raises(ZeroDivisionError), make(folder / "x") as file:
            file.write(b"half")
            raise ZeroDivisionError
        assert storage.names_in(folder) == []
        with make(folder / "x") as file:
            file.write(b"whole")
        assert storage.read_whole(folder / "x") == b"whole"
        storage.remove(folder / "x")
    with storage.atomic_file(folder / "t") as file:
        file.write("é\r\n")
    assert storage.read_whole(folder / "t") == "é\r\n".encode()
    storage.write_json(folder / "j", {"a": 0.1})
    assert storage.read_json(folder / "j", what="it", hint="") == {"a": 0.1}
    with refused(r"k does not exist; expected it"):
        storage.read_json(folder / "k", what="it", hint="")


def test_a_store_that_fails_while_it_is_written_is_one_line(monkeypatch):
    def fail(_):
        raise RuntimeError("the client lost its connection")

    monkeypatch.setattr(MemoryFile, "close", fail)
    with refused("cannot write memory://test/x: the client lost its connection"):
        storage.write_whole("memory://test/x", b"data")


def test_a_file_of_unknown_size_is_not_read_as_empty(monkeypatch):
    storage.write_whole("memory://test/unknown", b"data")
    info = MemoryFileSystem.info
    monkeypatch.setattr(
        MemoryFileSystem, "info", lambda *args, **kwargs: info(*args, **kwargs) | {"size": None}
    )
    with pytest.raises(OSError, match="does not say how large"):
        storage.read_whole("memory://test/unknown")


def test_a_server_that_sends_whole_files_for_parts_is_refused(monkeypatch):
    """As Python's http.server, which knows no Range: the second block would be the first again."""
    data = bytes(range(256)) * 9000
    storage.write_whole("memory://test/whole", data)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *args, **kwargs: data)
    with pytest.raises(OSError, match="cannot send a part"):
        storage.read_whole("memory://test/whole")


class FewOptions(MemoryFileSystem):
    """A file system that passes its options on to a library, which knows none, as sftp does."""

    protocol = "few"

    def __init__(self, **options):
        if options:
            raise TypeError(f"connect() got an unexpected keyword argument {next(iter(options))!r}")
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("few://", "memory://"))


def test_a_file_system_without_an_option_for_listings_is_read():
    fsspec.register_implementation("few", FewOptions, clobber=True)
    FewOptions().pipe("/x/a", b"1")
    assert storage.read_whole("few://x/a") == b"1"


def test_a_name_is_no_pattern_of_others():
    storage.write_whole("memory://test/pets1/x", b"data")
    with refused(r"cannot write memory://test/pets\[1\]/x: .* no \*, \? or \["):
        storage.write_whole("memory://test/pets[1]/x", b"other")
    storage.remove_tree("memory://test/pets[1]")
    assert storage.read_whole("memory://test/pets1/x") == b"data"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"source": "gitlab://b/x"}, "gitlab://b/x: neither TensorFlow nor fsspec opens gitlab://"),
        ({"out": "dropbox://h/x/y"}, "dropbox:// needs a package ("),
        ({"source": "ftp://me:secret@h/x.zip"}, "ftp://h/x.zip: leave user and password out"),
        ({"source": "nope://b/x.zip"}, "opens nope://: give gs:// or s3://, or a path"),
        ({"source": "ram://none/x"}, "'ram://none/x' does not exist"),
        ({"source": "memory://none/x"}, "'memory://none/x' does not exist"),
        ({"out": "ram://bucket"}, "out=ram://bucket` is no folder"),
    ],
)
def test_unusable_urls_are_one_line(image_folder, tmp_path, flags, words):
    with refused(re.escape(words)):
        build(**{"source": image_folder, "out": tmp_path / "out", **flags})


def test_a_folder(bucket, monkeypatch):
    assert str(remote.to_path("gs://bucket/a/b/") / "c") == "gs://bucket/a/b/c"
    names = ["cat/1.jpg", "cat/deep/2.jpg", "dog.jpg", ".hidden/3.jpg", "Thumbs.db", "x.zip"]
    for name in names:
        storage.write_whole(f"{bucket}/in/{name}", name.encode())
    source = sources.open_source(f"{bucket}/in/")
    assert type(source) is sources.RemoteFolder
    assert source.names() == sorted(names[:3])
    assert [name for name, *_ in source.skipped] == ["x.zip"]
    assert source.locate("dog.jpg") == f"{bucket}/in/dog.jpg"
    before = source.fingerprint()
    assert before == sources.open_source(f"{bucket}/in").fingerprint()
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    assert {name: copy.read(name) for name in copy.names()} == {n: n.encode() for n in names[:3]}
    storage.write_whole(f"{bucket}/in/dog.jpg", b"other")
    assert sources.open_source(f"{bucket}/in").fingerprint() != before
    monkeypatch.setattr(bounds, "MAX_BYTES", 5)
    assert source.read("dog.jpg") == b"other"
    with pytest.raises(sources.Rejected, match="too large"):
        source.read("cat/1.jpg")
    storage.remove(f"{bucket}/in/dog.jpg")
    with pytest.raises(sources.Rejected, match="unreadable: No such file"):
        source.read("dog.jpg")


@pytest.fixture(params=["zip", "tar", "data set", "shards", "file"])
def local(request, image_folder, records, tmp_path):
    """A source on this machine."""
    if request.param in ("zip", "tar"):
        return pathlib.Path(shutil.make_archive(tmp_path / "all", request.param, image_folder))
    path = pathlib.Path(shutil.copytree(records, tmp_path / "toy"))
    if request.param == "data set":
        return path
    for other in set(path.iterdir()) - set(path.glob("*.tfrecord")):
        other.unlink()
    return path if request.param == "shards" else min(path.iterdir())


def test_a_source_at_a_url_is_read_as_a_local_one(bucket, local):
    url = f"{bucket}/{local.name}"
    if local.is_dir():
        upload(local, url)
    else:
        storage.write_whole(url, local.read_bytes())
    here, there = sources.open_source(str(local)), sources.open_source(url)
    assert type(there) is type(here)
    assert there.names() == here.names()
    assert there.annotations() == here.annotations()
    copy = pickle.loads(pickle.dumps(there))  # noqa: S301 (our own)
    copy.prepare()
    assert all(copy.read(name) == here.read(name) for name in there.names()[::5])
    assert sources.open_source(url).fingerprint() == there.fingerprint()


@pytest.mark.parametrize("place", ["local", "remote"])
def test_lists(ram, image_folder, tmp_path, place):
    folder = remote.to_path(ram if place == "remote" else tmp_path)
    storage.write_whole(folder / "in/cat.1.jpg", (image_folder / "cat.1.jpg").read_bytes())
    storage.write_whole(f"{ram}/dog.jpg", b"dog")
    rows = ["path,label,group", "in/cat.1.jpg,cat,a", f"in/gone.jpg,cat,\n{ram}/dog.jpg,dog,b"]
    storage.write_whole(folder / "l.csv", "\n".join(rows).encode())
    source = sources.open_source(str(folder / "l.csv"))
    assert source.names() == ["in/cat.1.jpg", f"{ram}/dog.jpg"]
    found = source.annotations(sources.Columns(group="group"))
    assert [found[name][:2] for name in source.names()] == [("cat", "a"), ("dog", "b")]
    assert [skipped[:2] for skipped in source.skipped] == [("in/gone.jpg", "missing")]
    files = [(image_folder / "cat.1.jpg").read_bytes(), b"dog"]
    assert [source.read(name) for name in source.names()] == files
    before = source.fingerprint()
    storage.write_whole(f"{ram}/dog.jpg", b"other")
    assert sources.open_source(str(folder / "l.csv")).fingerprint() != before


@pytest.mark.slow
def test_beam_reads_and_writes_urls(ram, image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "in")
    (tmp_path / "in" / "cat.99.jpg").write_bytes(b"\xff\xd8no")
    options = {"max_rejects": 1, "store": "resized:32", "report": True}
    expected = build(tmp_path / "in", tmp_path / "out", **options)
    upload(tmp_path / "in", f"{ram}/in")
    made = build(f"{ram}/in", f"{ram}/out", **options)
    assert storage.names_in(ram) == ["in", "out"]  # no work folder is left
    there, here = contents(f"{ram}/out"), contents(tmp_path / "out")
    assert set(there) == set(here)
    assert (made.shards, made.fingerprint) == (expected.shards, expected.fingerprint)
    assert all(there[shard.name] == here[shard.name] for shard in made.shards)
    assert [reject.path for reject in rejects.load(made.folder)] == [f"{ram}/in/cat.99.jpg"]
    assert verify.find_damage(made) == []


@pytest.mark.slow
def test_processes_write_to_a_url(records, image_folder, tmp_path):
    options = {"shards": 3, "workers": 2}
    made = build(image_folder, f"file://{tmp_path}/deep/toy", **options)
    expected = {path.name: path.read_bytes() for path in records.iterdir()}
    assert contents(made.folder) == expected
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["toy"]


def test_building_again(ram, image_folder, capsys):
    out = f"{ram}/toy"
    made = build(image_folder, out)
    build(image_folder, out, quiet=False)
    assert "is up to date" in capsys.readouterr().err
    storage.write_whole(f"{out}/notes.txt", b"mine")
    with refused(r"holds 'notes\.txt'"):
        build(image_folder, out, seed=1, overwrite=True)
    storage.remove(f"{out}/notes.txt")
    again = build(image_folder, out, seed=1, shards=1, overwrite=True)
    assert again.fingerprint != made.fingerprint
    assert {*contents(out)} == {*again.files, *(s.name for s in again.shards), "manifest.json"}
    storage.remove(f"{out}/manifest.json")
    with refused("not a data set"):
        build(image_folder, out)


def test_publishing_that_is_ended_is_no_data_set_and_goes_on(ram, image_folder, monkeypatch):
    out = f"{ram}/toy"
    build(image_folder, out, seed=7)
    build(image_folder, f"{ram}/whole")
    rename, moved = storage.rename, []

    def end(path, to):
        moved.extend([to] if to.startswith(f"{out}/") else [])
        if len(moved) == 3:
            raise OSError(5, "unplugged")
        rename(path, to)

    monkeypatch.setattr(storage, "rename", end)
    with refused("unplugged"):
        build(image_folder, out, overwrite=True)
    with refused("does not exist"):
        manifest.load(out)
    monkeypatch.setattr(storage, "rename", rename)
    build(image_folder, out)
    assert contents(out) == contents(f"{ram}/whole")
    assert sorted(storage.names_in(ram)) == ["toy", "whole"]


def test_damage_is_found(bucket, records):
    url = upload(records, f"{bucket}/toy")
    described = manifest.load(url)
    described.check()
    verify_records.main(verify_records.Options(records=url))
    names = [described.shards[0].name, described.shards[1].name, "extra.tfrecord"]
    content = bytearray(storage.read_whole(f"{url}/{names[0]}"))
    content[len(content) // 2] ^= 1
    storage.write_whole(f"{url}/{names[0]}", bytes(content))
    storage.remove(f"{url}/{names[1]}")
    storage.write_whole(f"{url}/{names[2]}", b"")
    assert [damage.name for damage in verify.find_damage(described)] == names
    with refused("No such file"):
        described.check()
    storage.remove(f"{url}/rejects.csv")
    with refused(r"rejects\.csv is missing"):
        rejects.load(described.folder)


def test_training_reads_urls(bucket, records):
    def batches(folder):
        described = manifest.load(folder)
        reading = InputConfig(image_size=16, batch_size=8, seed=3, shuffle_mb=1)
        evaluated = pipeline.eval_batches(Subset(described, ("val",)), image_size=16, batch_size=8)
        trained = pipeline.train_batches(Subset(described, ("train",)), reading)
        return [batch["image"].numpy().tobytes() for batch in [*evaluated, *trained]]

    assert batches(upload(records, f"{bucket}/toy")) == batches(records)


def test_without_urls_tensorflow_is_not_loaded(image_folder, tmp_path):
    code = (
        "import sys\n"
        "from tfpipe import build_records\n"
        "if __name__ == '__main__':\n"
        f"    build_records.main(build_records.Options(source=({str(image_folder)!r},),"
        f" out={str(tmp_path / 'out')!r}, workers=1))\n"
        "    loaded = {'tensorflow', 'tensorflow.python', 'apache_beam'} & sys.modules.keys()\n"
        "    assert not loaded, loaded\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out" / "rejects.csv", newline="") as file:
        assert list(csv.reader(file)) == [["path", "reason", "detail"]]
