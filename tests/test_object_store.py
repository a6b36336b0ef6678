"""An object store: a local server of S3's protocol, from a package."""

import pathlib
import shutil

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from tests.refusals import refused
from tests.training import check_same_run
from tfpipe import build_records, sources, train, verify_records
from tfpipe.core import fsspec_files, remote, storage
from tfpipe.input import pipeline, stored_records
from tfpipe.input.input_config import InputConfig
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset


@pytest.fixture(scope="module")
def store():
    """A client of a bucket, by the vendor's library; the variables lead fsspec there."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "any"),
            ("AWS_SECRET_ACCESS_KEY", "any"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="pets")
        yield client
    server.stop()


def upload(store, folder, prefix):
    for path in pathlib.Path(folder).iterdir():
        store.upload_file(str(path), "pets", f"{prefix}/{path.name}")
    return f"s3://pets/{prefix}"


def keys(store, prefix):
    found = store.list_objects_v2(Bucket="pets", Prefix=f"{prefix}/").get("Contents", [])
    return {each["Key"].removeprefix(f"{prefix}/") for each in found}


def test_files(store):
    folder = remote.to_path("s3://pets/files")
    path = folder / "a" / "x.bin"
    assert storage.read_whole(path) is None
    assert storage.names_in(folder) == []
    data = bytes(range(256)) * 9000
    storage.write_whole(path, data)
    assert store.get_object(Bucket="pets", Key="files/a/x.bin")["Body"].read() == data
    assert storage.names_in(folder) == ["a"]
    assert storage.size(path) == len(data)
    size, modified = storage.stamp(path)
    assert size == len(data)
    assert (
        modified / 1e9
        == store.head_object(Bucket="pets", Key="files/a/x.bin")["LastModified"].timestamp()
    )
    assert storage.read_whole(path, 255, 3) == b"\xff\0\1"
    storage.rename(path, folder / "a" / "y")
    assert keys(store, "files") == {"a/y"}
    with pytest.raises(FileNotFoundError):
        storage.size(path)
    with pytest.raises(OSError, match="not a regular file"):
        storage.size(folder / "a")
    storage.remove_tree(folder)
    assert not keys(store, "files")


def test_an_object_that_stands_for_a_folder_is_no_file(store):
    """The console of the store makes one for each folder that a person creates there."""
    for key in ("marked/", "marked/cat/"):
        store.put_object(Bucket="pets", Key=key)
    store.put_object(Bucket="pets", Key="marked/cat/1.jpg", Body=b"x")
    source = sources.open_source("s3://pets/marked")
    assert source.names() == ["cat/1.jpg"]
    assert not source.skipped


def test_an_error_of_a_store_is_one_line(store, monkeypatch):
    with refused("'s3://none/x.zip' does not exist"):
        sources.open_source("s3://none/x.zip")
    with refused("s3://pets/none/manifest.json does not exist"):
        manifests.load("s3://pets/none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with refused("s3://pets/x.zip.*cannot be read.*127.0.0.1:1"):
        sources.open_source("s3://pets/x.zip")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow  # trains twice, in processes of its own too
@pytest.mark.timeout(300)
def test_records_are_built_from_a_bucket_and_trained_from_one(
    store, image_folder, tiny_config, tmp_path
):
    archive = shutil.make_archive(tmp_path / "all", "zip", image_folder)
    store.upload_file(archive, "pets", "all.zip")
    options = {"shards": 3, "workers": 1, "report": False}
    for source, out in ((archive, tmp_path / "here"), ("s3://pets/all.zip", "s3://pets/there")):
        build_records.main(build_records.Options(source=(source,), out=str(out), **options))
    here = {path.name: path.read_bytes() for path in (tmp_path / "here").glob("*.tfrecord*")}
    assert {name for name in keys(store, "there") if "tfrecord" in name} == set(here)
    for name, data in here.items():
        assert store.get_object(Bucket="pets", Key=f"there/{name}")["Body"].read() == data
    verify_records.main(verify_records.Options(records="s3://pets/there"))
    for records, run in ((tmp_path / "here", "one"), ("s3://pets/there", "two")):
        changes = {"records": str(records), "run_dir": str(tmp_path / run), "epochs": 1}
        train.main(tiny_config(**changes, tta="", calibration="none"))
    check_same_run(tmp_path / "one", tmp_path / "two")


def test_shards_are_requested_in_blocks_several_at_a_time(store, records, monkeypatch):
    """As the store sees it: ranges of whole blocks, and the next before the last is answered."""
    from tfpipe.core import read_ahead

    url = upload(store, records, "blocks")
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", 4096)
    ranges, under_way, most = [], 0, 0
    read = fsspec_files.FsspecFiles.read

    def watched(files, url, offset, size):
        nonlocal under_way, most
        if url.endswith(".json"):
            return read(files, url, offset, size)
        ranges.append((url, offset, size))
        under_way += 1
        most = max(most, under_way)
        try:
            return read(files, url, offset, size)
        finally:
            under_way -= 1

    monkeypatch.setattr(fsspec_files.FsspecFiles, "read", watched)
    part = Subset(manifests.load(url), ("train",))
    count = sum(len(batch["label"]) for batch in pipeline.train_batches(part, InputConfig(16, 8)))
    assert count == part.count
    assert len(ranges) == len(set(ranges)), "no block twice"
    assert all(offset % 4096 == 0 for _, offset, _ in ranges)
    assert sum(size for *_, size in ranges) == sum(shard.bytes for shard in part.shards)
    assert most > 1


def test_a_data_service_reads_what_tensorflow_reads(store, records):
    part = Subset(manifests.load(upload(store, records, "service")), ("train",))
    with refused("s3://pets/service/train-.*workers of a data service.*leave out `data_service`"):
        stored_records.shuffled(part.pieces, [0, 0], by_tensorflow=True)
