"""What may be a source: archives and lists that are none, links, and several sources at once."""

import gc
import gzip
import lzma
import os
import pathlib
import pickle
import tempfile

import pytest
from archives import make_zip

from tfpipe import sources
from tfpipe.core.errors import UserError


def reasons(source):
    return {name: reason for name, reason, _ in source.skipped}


def locked(path):
    """Write a zip archive whose members are marked as encrypted."""
    data = bytearray(pathlib.Path(make_zip(path, [("a.jpg", b"1")])).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


def only_links(path):
    path.mkdir()
    for number in range(3):
        (path / f"{number}.jpg").symlink_to("/etc/hostname")


def zips(path):
    """Make a folder as competitions have it: archives and a list."""
    path.mkdir()
    (path / "test.zip").write_bytes(b"PK")
    (path / "train.zip").write_bytes(b"PK")
    (path / "sample_submission.csv").write_text("id,label\n1,0.5\n")


def zip_of_zips(path):
    make_zip(path, [("train.zip", b"PK"), ("test1.zip", b"PK"), ("sampleSubmission.csv", b"id")])


def zip_of_tars(path):
    make_zip(path, [("data/train.tar", b"1"), ("README.md", b"2")])


HEAD = bytes(300)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["does not exist"]),
        (lambda path: path.mkdir(), ["holds no files"]),
        (lambda path: path.write_bytes(b"hello"), ["is not TFRecords or"]),
        (lambda path: os.mkfifo(path), ["is not TFRecords or"]),
        (lambda path: make_zip(path, []), ["holds no files"]),
        (lambda path: make_zip(path, [("../a.jpg", b"x")]), ["unsafe name"]),
        (lambda path: path.write_bytes(b"PK\5\6" + b"\xff" * 18), ["damaged"]),
        (lambda path: path.write_bytes(b"PK\3\4" + HEAD), ["zip archive that was cut", "again"]),
        (lambda path: path.write_bytes(b"PK\7\x08PK\3\4" + HEAD), ["divided zip", "join"]),
        (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + HEAD), ["7z", "unpack"]),
        (lambda path: path.write_bytes(b"Rar!\x1a\7\1\0" + HEAD), ["rar", "unpack"]),
        (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd" + HEAD), ["zstd", "unpack"]),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE HTML><html>"), ["web page", "download"]),
        (lambda path: path.write_bytes(b"<html><title>Sign in"), ["web page", "download"]),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), ["git lfs"]),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + HEAD), ["one JPEG", "its folder"]),
        (lambda path: path.write_bytes(b""), ["empty"]),
        (lambda path: path.write_bytes(gzip.compress(b"path,label")), ["gzip", "uncompress"]),
        (lambda path: path.write_bytes(lzma.compress(b"")), ["xz", "uncompress"]),
        (locked, ["1 encrypted", "password"]),
        (only_links, ["3 symlink", "not followed", "--follow_links", "list"]),
        (zips, ["'test.zip', 'train.zip'", "/train.zip`"]),
        (lambda path: make_zip(path, [("[Content_Types].xml", b"")]), ["Office", "CSV"]),
        (zip_of_tars, ["'data/train.tar'", "unpack it", "`source=train.tar`"]),
        (zip_of_zips, ["'test1.zip', 'train.zip'", "/source/train.zip`"]),
    ],
)
def test_bad_source_is_a_user_error(tmp_path, make, words):
    path = tmp_path / "source"
    make(path)
    with pytest.raises(UserError) as caught:
        sources.open_source(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def spellings(path):
    """Return other names of a folder."""
    link = path.with_name("link")
    link.symlink_to(path)
    there = [f"{path}/.", f"{path}/", f"{path}/../{path.name}", str(link), os.path.relpath(path)]
    return [*there, f"{path.parent}//{path.name}"]


def test_one_source_twice_is_an_error(tmp_path):
    folder = tmp_path / "a"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat/0.jpg").write_bytes(b"x")
    path = make_zip(tmp_path / "x.zip", [("a.jpg", b"1")])
    for twice in [[str(folder), other] for other in spellings(folder)] + [[path, path]]:
        with pytest.raises(UserError, match=r"`source=.*is the same as `source="):
            sources.open_sources(twice)
    with pytest.raises(UserError, match=r"`source=.*/cat` lies in `source="):
        sources.open_sources([f"{folder}/cat", str(folder)])
    assert len(sources.open_sources([str(folder), path])) == 2


def test_a_list_and_the_folder_of_its_files_are_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/0.jpg", "a/1.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "l.csv"
    path.write_text("path,label\na/1.jpg,cat\nb.jpg,dog\n")
    with pytest.raises(UserError, match=r"/a/1.jpg is in `source=.*`labels=csv:"):
        sources.open_sources([str(tmp_path / "a"), str(path)])
    path.write_text("path,label\nb.jpg,dog\n")
    assert len(sources.open_sources([str(tmp_path / "a"), str(path)])) == 2


def test_joined_sources_tell_their_files_apart(tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(name.encode())
        (tmp_path / name / "x.zip").write_bytes(b"PK")
        paths.append(str(tmp_path / name))
    joined = sources.join(sources.open_sources(paths))
    copy = pickle.loads(pickle.dumps(joined))  # noqa: S301 (our own)
    assert [copy.read(name) for name in copy.names()] == [b"a", b"b"]
    assert joined.names() == [f"{path}/0.jpg" for path in paths]
    assert reasons(joined) == {f"{path}/x.zip": "nested archive" for path in paths}
    before = joined.fingerprint()
    os.utime(tmp_path / "b/0.jpg", ns=(1, 1))
    assert sources.join(sources.open_sources(paths)).fingerprint() != before


def link_tree(root):
    """Make a folder of files and links of every kind, and return what following them reads."""
    store, folder = root / "store", root / "in"
    for name in ("store/cat", "store/dog/deep", "in/own", "in/cow"):
        (root / name).mkdir(parents=True)
    for number, name in enumerate(("cat/0.jpg", "dog/1.jpg", "dog/deep/2.jpg")):
        (store / name).write_bytes(b"%d" % number)
    (folder / "own/3.jpg").write_bytes(b"3")
    os.link(folder / "own/3.jpg", folder / "own/hard.jpg")
    (folder / "cat").symlink_to(store / "cat")
    (folder / "zdog").symlink_to("../store/dog")
    (folder / "cow/file.jpg").symlink_to(store / "cat/0.jpg")  # read below cat already
    (folder / "cow/own.jpg").symlink_to("../own/3.jpg")
    (folder / "cow/loop").symlink_to("..")
    (folder / "cow/nowhere.jpg").symlink_to("none")
    (store / "dog/back").symlink_to(folder)
    os.mkfifo(store / "fifo")
    (folder / "cow/fifo.jpg").symlink_to(store / "fifo")
    return {
        "cat/0.jpg": b"0",
        "zdog/1.jpg": b"1",
        "zdog/deep/2.jpg": b"2",
        "own/3.jpg": b"3",
        "own/hard.jpg": b"3",
    }


def test_links_are_followed_if_asked(tmp_path, capsys):
    expected = link_tree(tmp_path)
    (plain,) = sources.open_sources([str(tmp_path / "in")])
    assert plain.names() == ["own/3.jpg", "own/hard.jpg"]
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("7 symbolic links", "'cat'", "--follow_links"):
        assert words in line
    (source,) = sources.open_sources([str(tmp_path / "in")], sources.Options(follow_links=True))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    for each in (source, copy):
        assert {name: each.read(name) for name in each.names()} == expected
    assert reasons(source) == {
        "cow/file.jpg": "copy",
        "cow/own.jpg": "copy",
        "cow/loop": "copy",
        "cow/nowhere.jpg": "symlink",
        "cow/fifo.jpg": "special file",
        "zdog/back": "copy",
    }


def test_a_zip_in_a_zip_is_read_by_its_path(tmp_path, monkeypatch):
    inner = make_zip(tmp_path / "train.zip", [("train/cat.0.jpg", b"0"), ("train/dog.1.jpg", b"1")])
    data = pathlib.Path(inner).read_bytes()
    names = ["list.csv", "a/train.zip", "bad.zip", "bomb.zip"]
    outer = make_zip(
        tmp_path / "All.ZIP", zip(names, [b"id", data, b"PK", bytes(2**21)], strict=True)
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (source,) = sources.open_sources([f"{outer}/a/train.zip"])
    assert source.names() == ["train/cat.0.jpg", "train/dog.1.jpg"]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    source.release()
    assert [copy.read(name) for name in source.names()] == [b"0", b"1"]
    assert source.locate("x") == f"{outer}/a/train.zip/x"
    assert source.fingerprint() == sources.open_source(inner).fingerprint()
    assert len(list(scratch.iterdir())) == 1  # the copy made none
    del source, copy
    gc.collect()
    for name, words in {"bad": "is no zip", "bomb": "200 times", "none": "'a/train.zip'"}.items():
        with pytest.raises(UserError, match=words) as caught:
            sources.open_source(f"{outer}/{name}.zip")
        assert outer in str(caught.value)
    gc.collect()
    assert os.listdir(scratch) == []
    with pytest.raises(UserError, match="does not exist"):
        sources.open_source(str(tmp_path / "none.zip/train.zip"))
