"""Folders, archives and lists, friendly and hostile."""

import bz2
import csv
import gc
import gzip
import io
import lzma
import os
import pathlib
import pickle
import socket
import stat
import tarfile
import tempfile
import warnings
import zipfile

import hypothesis
import pytest
from hypothesis import strategies as st

from tfpipe import sources
from tfpipe.core.errors import UserError
from tfpipe.sources import source as limits
from tfpipe.sources import tar as tars

ARCHIVES = pathlib.Path(__file__).parents[2] / "shared/data/bad-inputs/archives.tar"


def make_zip(path, members):
    """Writes (name or ZipInfo, contents) pairs."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # a repeated name is one of the cases
        for name, data in members:
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    return str(path)


# Members of an archive that are refused because of their names, and the reason.
REFUSED = {
    "../up.jpg": "unsafe name",
    "a/../../up.jpg": "unsafe name",
    "/etc/abs.jpg": "unsafe name",
    "C:/drive.jpg": "unsafe name",
    "back\\slash.jpg": "unsafe name",
    "inner.tar.gz": "nested archive",
    "train/link": "symlink",
    "train/link/under.jpg": "symlink",
    "twice.jpg": "repeated name",
}


def named(link):
    """Returns members of the names in REFUSED, and a good one."""
    names = [*REFUSED, "twice.jpg"]
    return [("train/good.jpg", b"good")] + [
        link if name == "train/link" else (name, b"%d" % i) for i, name in enumerate(names)
    ]


def reasons(source):
    return {name: reason for name, reason, _ in source.skipped}


def patch(path, old, new):
    data = pathlib.Path(path).read_bytes()
    assert old in data
    pathlib.Path(path).write_bytes(data.replace(old, new))


def test_folder_and_zip_agree(tmp_path):
    files = {"b/2.jpg": b"two", "a.jpg": b"one", "b/c/ü 3.jpg": b"three"}
    hidden = [".DS_Store", "b/Thumbs.db", "__MACOSX/._a.jpg", ".git/x.jpg", "b/desktop.ini"]
    root = tmp_path / "folder"
    for name in [*files, *hidden]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(files.get(name, b"junk"))
    (root / "empty.jpg").mkdir()
    path = make_zip(tmp_path / "x.zip", [*files.items(), *((name, b"junk") for name in hidden)])
    for source in (sources.open_source(str(root)), sources.open_source(path)):
        assert source.names() == sorted(files)
        assert source.skipped == []
        assert {name: source.read(name) for name in source.names()} == files
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
        assert copy.names() == source.names()
        assert copy.read("a.jpg") == b"one"
        assert copy.fingerprint() == source.fingerprint()
    assert sources.open_source(path).locate("b/2.jpg") == f"{path}/b/2.jpg"


def test_folder_reports_what_it_does_not_open(tmp_path):
    good = tmp_path / "good.jpg"
    good.write_bytes(b"x")
    odd = tmp_path / 'new\nline, "quoted" -rf.jpg'
    odd.write_bytes(b"y")
    (tmp_path / "link.jpg").symlink_to(good)
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "inner.zip").write_bytes(b"PK")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.jpg"))
        source = sources.open_source(str(tmp_path))
        assert source.names() == ["good.jpg", odd.name]
    assert reasons(source) == {
        "link.jpg": "symlink",
        "dangling.jpg": "symlink",
        "loop": "symlink",
        "fifo.jpg": "special file",
        "s.jpg": "special file",
        "inner.zip": "nested archive",
    }
    assert source.read(odd.name) == b"y"


def test_file_that_becomes_a_fifo_or_a_link_is_not_opened(tmp_path):
    names = ["a.jpg", "b.jpg", "c.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    source = sources.open_source(str(tmp_path))
    assert source.names() == names
    for name in names:
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("/etc/hostname")
    for name, reason in zip(names, ["special file", "unreadable", "unreadable"], strict=True):
        with pytest.raises(sources.Rejected) as caught:
            source.read(name)
        assert caught.value.reason == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders_are_reported(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.jpg").chmod(0)
    (tmp_path / "sub").mkdir(mode=0)
    source = sources.open_source(str(tmp_path))
    assert reasons(source) == {"sub/": "unreadable"}
    with pytest.raises(sources.Rejected, match="unreadable"):
        source.read("a.jpg")
    (tmp_path / "sub").chmod(0o700)


def test_zip_reports_what_it_does_not_read(tmp_path):
    link = zipfile.ZipInfo("train/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    secret = zipfile.ZipInfo("secret.jpg")
    path = make_zip(tmp_path / "x.zip", [*named((link, b"/etc")), (secret, b"x")])
    data = bytearray(pathlib.Path(path).read_bytes())
    data[data.rindex(b"secret.jpg") - 46 + 8] |= 1  # the flags in the central directory
    pathlib.Path(path).write_bytes(data)
    source = sources.open_source(path)
    assert source.names() == ["train/good.jpg", "twice.jpg"]
    assert source.read("twice.jpg") == b"9"
    assert reasons(source) == {**REFUSED, "secret.jpg": "encrypted"}


def test_zip_other_compression_is_reported(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"x", zipfile.ZIP_STORED)
        archive.writestr("b.jpg", b"x" * 99, zipfile.ZIP_LZMA)
    assert reasons(sources.open_source(str(path))) == {"b.jpg": "unsupported"}


def test_zip_bomb_is_refused_by_what_it_declares(tmp_path):
    path = make_zip(tmp_path / "x.zip", [("a.bmp", bytes(2**21)), ("b.bmp", bytes(2**19))])
    source = sources.open_source(path)
    with pytest.raises(sources.Rejected, match="times its size"):
        source.read("a.bmp")
    assert source.read("b.bmp") == bytes(2**19)


def test_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BYTES", 10)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.jpg").write_bytes(bytes(11))
    (tmp_path / "folder/b.jpg").write_bytes(bytes(10))
    members = [("a.jpg", bytes(11)), ("b.jpg", bytes(10))]
    archives = make_zip(tmp_path / "x.zip", members), make_tar(tmp_path / "x.tar", members)
    for source in map(sources.open_source, [str(tmp_path / "folder"), *archives]):
        with pytest.raises(sources.Rejected) as caught:
            source.read("a.jpg")
        assert caught.value.reason == "too large"
        assert source.read("b.jpg") == bytes(10)


def test_damaged_member_is_rejected_and_the_others_are_read(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"right bytes")
        archive.writestr("b.jpg", b"other")
    patch(path, b"right bytes", b"wrong bytes")
    source = sources.open_source(str(path))
    with pytest.raises(sources.Rejected, match="CRC"):
        source.read("a.jpg")
    assert source.read("b.jpg") == b"other"


def test_fingerprint_follows_the_files(tmp_path):
    one = sources.open_source(make_zip(tmp_path / "1.zip", [("a.jpg", b"1")])).fingerprint()
    two = sources.open_source(make_zip(tmp_path / "2.zip", [("a.jpg", b"2")])).fingerprint()
    same = sources.open_source(make_zip(tmp_path / "3.zip", [("a.jpg", b"1")])).fingerprint()
    assert one == same != two
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"1")
    before = sources.open_source(str(folder)).fingerprint()
    assert before == sources.open_source(str(folder)).fingerprint()
    os.utime(folder / "a.jpg", ns=(1, 1))
    assert before != sources.open_source(str(folder)).fingerprint()


def test_deep_folders_and_odd_bytes_in_names(tmp_path):
    deep = "/".join(["d"] * 300)
    os.makedirs(tmp_path / deep)
    (tmp_path / deep / "x.jpg").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"y")
    source = sources.open_source(str(tmp_path))
    assert source.names() == [deep + "/x.jpg", "\udcff.jpg"]
    assert source.read("\udcff.jpg") == b"y"
    assert len(source.fingerprint()) == 64


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


HEAD = bytes(300)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["does not exist"]),
        (lambda path: path.mkdir(), ["holds no files"]),
        (lambda path: path.write_bytes(b"hello"), ["is not TFRecords or a folder or a zip"]),
        (lambda path: os.mkfifo(path), ["is not TFRecords or a folder or a zip archive"]),
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
        (zip_of_zips, ["'test1.zip', 'train.zip'", "unpack it", "`source=train.zip`"]),
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
        "cow/file.jpg": "symlink",
        "cow/own.jpg": "symlink",
        "cow/loop": "symlink",
        "cow/nowhere.jpg": "symlink",
        "cow/fifo.jpg": "special file",
        "zdog/back": "symlink",
    }


def test_hostile_archives(tmp_path):
    if not ARCHIVES.is_file():
        pytest.skip(f"{ARCHIVES} is not there")
    with tarfile.open(ARCHIVES) as archive:
        archive.extractall(tmp_path, filter="data")
    # Members that can be read, members that cannot, and members that are skipped.
    expected = {
        "bomb_250MB_single.zip": (0, 1, 0),
        "bomb_nested.zip": None,
        "crc_mismatch.zip": (3, 1, 0),
        "encrypted_flag.zip": None,
        "good_train.zip": (4, 0, 0),
        "lying_size.zip": (3, 1, 0),
        "slip_absolute.zip": (4, 0, 1),
        "slip_dotdot.zip": (4, 0, 1),
        "symlink_dir_then_write.zip": (4, 0, 2),
        "symlink_file.zip": (4, 0, 1),
        "truncated.zip": None,
    }
    index = csv.DictReader(io.StringIO((tmp_path / "index.csv").read_text()))
    assert {row["path"] for row in index} == set(expected)
    for name, counts in expected.items():
        path = str(tmp_path / name)
        if counts is None:
            with pytest.raises(UserError):
                sources.open_source(path)
            continue
        source = sources.open_source(path)
        good = bad = 0
        for member in source.names():
            try:
                source.read(member)
                good += 1
            except sources.Rejected:
                bad += 1
        assert (name, good, bad, len(source.skipped)) == (name, *counts)
    assert not list(pathlib.Path("/tmp").glob("evil*"))  # noqa: S108 (where the archives aim)


TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def make_tar(path, members, format=tarfile.GNU_FORMAT):
    """Writes (name or TarInfo, contents) pairs, compressed as the name of the archive says."""
    kind = {".tar": "", ".tgz": "gz"}.get(path.suffix, path.suffix[1:])
    with tarfile.open(path, f"w:{kind}", format=format) as archive:
        for info, data in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def tar_info(name, kind, target="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("suffix", "format"),
    [
        *((suffix, tarfile.GNU_FORMAT) for suffix in TAR_SUFFIXES),
        *((".tar", format) for format in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)),
    ],
)
def test_tar_is_read_at_random_and_leaves_nothing(tmp_path, scratch, suffix, format):
    long = "d" * 60 + "/" + "e" * 90 + ".jpg"
    files = {"b/2.jpg": os.urandom(3000), "a.jpg": b"one", long: b"", "b/ü 3.jpg": b"3" * 512}
    junk = [("._a.jpg", b"x"), ("b/.DS_Store", b"x"), (tar_info("b", tarfile.DIRTYPE), b"")]
    path = make_tar(tmp_path / f"x{suffix}", [*files.items(), *junk], format)
    before = sorted(tmp_path.rglob("*"))
    source = sources.open_source(path)
    assert isinstance(source, sources.Tar)
    assert source.names() == sorted(files)
    assert source.skipped == []
    assert len(list(scratch.iterdir())) == (suffix != ".tar")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    for each in (source, copy):
        for name in [*files, *reversed(files)]:
            assert each.read(name) == files[name]
    assert copy.fingerprint() == source.fingerprint()
    assert source.locate("a.jpg") == f"{path}/a.jpg"
    assert len(list(scratch.iterdir())) == (suffix != ".tar")  # the copy made none
    del source, copy, each
    gc.collect()
    assert sorted(tmp_path.rglob("*")) == before


def test_tar_reports_what_it_does_not_read(tmp_path):
    kinds = {
        tarfile.LNKTYPE: "hard link",
        tarfile.FIFOTYPE: "special file",
        tarfile.CHRTYPE: "special file",
        tarfile.BLKTYPE: "special file",
        b"Z": "unsupported",
    }
    odd = [(tar_info(f"{kind!r}.jpg", kind, "train/good.jpg"), b"") for kind in kinds]
    link = (tar_info("train/link", tarfile.SYMTYPE, "/etc"), b"")
    source = sources.open_source(make_tar(tmp_path / "x.tar", [*named(link), *odd]))
    assert source.names() == ["train/good.jpg", "twice.jpg"]
    assert source.read("train/good.jpg") == b"good"
    assert source.read("twice.jpg") == b"9"
    refused = {f"{kind!r}.jpg": reason for kind, reason in kinds.items()}
    assert {name.replace("\\", "/"): r for name, r in reasons(source).items()} == {
        name.replace("\\", "/"): r for name, r in {**REFUSED, **refused}.items()
    }


def test_tar_bombs_are_refused(tmp_path, scratch, monkeypatch):
    for suffix in TAR_SUFFIXES[1:]:  # refused at 1 MB or 200 times the size
        bomb = make_tar(tmp_path / f"bomb{suffix}", [("a.bmp", bytes(8 * 10**6))])
        monkeypatch.setattr(tars, "_BLOCK_BYTES", 2**16)
        monkeypatch.setattr(os, "unlink", lambda path: None)
        with pytest.raises(UserError, match="200 times its size"):
            sources.open_source(bomb)
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        (left,) = scratch.iterdir()
        assert left.stat().st_size <= max(2**20, 200 * os.path.getsize(bomb))
        left.unlink()
        with pytest.raises(UserError):
            sources.open_source(bomb)
        assert os.listdir(scratch) == []


def test_tar_header_that_declares_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "x.tar"
    head = tar_info("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=2**30).tobuf()
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(2**30 + 10240)  # a sparse file, which needs no space
    with pytest.raises(UserError, match="damaged"):
        sources.open_source(str(path))


@pytest.mark.parametrize("suffix", TAR_SUFFIXES)
def test_damaged_tar_is_a_user_error(tmp_path, scratch, suffix):
    path = pathlib.Path(
        make_tar(tmp_path / f"x{suffix}", [(f"{i}.jpg", os.urandom(700)) for i in range(9)])
    )
    whole = path.read_bytes()
    for size in [*range(0, len(whole) - 10240 + 1, 509), 512, 1536]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            sources.open_source(str(path))
        assert str(path) in str(caught.value)
    assert os.listdir(scratch) == []


def test_tar_with_a_damaged_header_is_refused_rather_than_cut_there(tmp_path):
    path = tmp_path / "x.tar"
    make_tar(path, [(f"{name}.jpg", b"x") for name in "abc"])
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"b.jpg", b"B.jpg"))  # its checksum is wrong
    with pytest.raises(UserError, match="1024 is neither"):
        sources.open_source(str(path))
    path.write_bytes(whole + whole)
    with pytest.raises(UserError, match="neither a header nor the end"):
        sources.open_source(str(path))


@hypothesis.settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.data())
def test_tar_with_changed_bytes_raises_nothing_else(tmp_path, scratch, data):
    suffix = data.draw(st.sampled_from(TAR_SUFFIXES))
    path = tmp_path / f"x{suffix}"
    make_tar(path, [("a" * 150 + ".jpg", b"x" * 600), ("b.jpg", b"y")], tarfile.PAX_FORMAT)
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(len(changed), 4096) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(changed)
    try:
        source = sources.open_source(str(path))
        for name in source.names():
            source.read(name)
    except (UserError, sources.Rejected):
        pass


def test_several_streams_in_one_file_are_one_tar(tmp_path, scratch):
    plain = pathlib.Path(make_tar(tmp_path / "x.tar", [("a.jpg", b"1" * 2000)])).read_bytes()
    for module, suffix in ((gzip, ".gz"), (bz2, ".bz2"), (lzma, ".xz")):
        path = tmp_path / f"x.tar{suffix}"
        path.write_bytes(module.compress(plain[:900]) + module.compress(plain[900:]))
        assert sources.open_source(str(path)).read("a.jpg") == b"1" * 2000


def test_tar_fingerprint_and_a_zip_in_a_tar(tmp_path):
    inner = make_zip(tmp_path / "x.zip", [("in.jpg", b"x")])
    members = [("a.jpg", b"1"), ("x.zip", pathlib.Path(inner).read_bytes())]
    path = pathlib.Path(make_tar(tmp_path / "x.tar", members))
    source = sources.open_source(str(path))
    assert source.names() == ["a.jpg"]  # its last bytes are a zip archive's
    before = source.fingerprint()
    assert before == sources.open_source(str(path)).fingerprint()
    os.utime(path, ns=(1, 1))
    assert before != sources.open_source(str(path)).fingerprint()
