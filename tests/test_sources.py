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
import zipfile

import hypothesis
import pytest
from archives import make_tar, make_zip
from hypothesis import strategies as st

from tfpipe import sources
from tfpipe.core.errors import UserError
from tfpipe.sources import source as limits
from tfpipe.sources import tar as tars

ARCHIVES = pathlib.Path(__file__).parents[2] / "shared/data/bad-inputs/archives.tar"


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
