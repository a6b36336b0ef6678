"""Names in zip and tar archives that programs of Windows, macOS and Linux write."""

import pathlib
import tarfile
import unicodedata

import pytest
from archives import write_tar, write_zip

from tfpipe import sources
from tfpipe.core.errors import UserError
from tfpipe.sources import class_name


def read_all(path, **options):
    """Return the name of each member by its contents."""
    (source,) = sources.open_sources([path], sources.Options(**options))
    return {int(source.read(name)): name for name in source.names()}


CHINESE = ["猫/0.jpg", "狗/1.jpg", "鸟/2.jpg"]
FRENCH = [f"photos/{name}/{number}.jpg" for number, name in enumerate(("Crème", "Thé", "tea"))]
GERMAN = ["Hütte/0.jpg", "Straße/1.jpg"]
DECOMPOSED = [unicodedata.normalize("NFD", name) for name in FRENCH]


@pytest.mark.parametrize(
    ("names", "stored", "options", "warned"),
    [
        (CHINESE, "utf-8", {}, []),
        (CHINESE, "gbk", {"name_encoding": "gbk"}, ["gbk", "'猫', '狗', '鸟'"]),
        (FRENCH, "utf-8", {}, []),
        (DECOMPOSED, "utf-8", {}, []),
        (GERMAN, "cp437", {}, ["cp437", "'Hütte', 'Straße'", "--name_encoding"]),
        (GERMAN, "latin-1", {"name_encoding": "latin-1"}, ["latin-1", "'Hütte'"]),
        (["cat/0.jpg"], "ascii", {"name_encoding": "gbk"}, []),
        (["кот/0.jpg"], "cp866", {"name_encoding": "cp866"}, ["'кот'"]),
    ],
)
def test_zip_names_without_a_mark(tmp_path, capsys, names, stored, options, warned):
    path = write_zip(tmp_path / "x.zip", [name.encode(stored) for name in names])
    assert read_all(path, **options) == dict(enumerate(names))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(warned)
    for word in warned:
        assert word in lines[0]


def test_the_whole_zip_decides_about_utf8(tmp_path, capsys):
    cat, *others = (name.encode("gbk") for name in CHINESE)
    assert cat.decode()[0] == "è"  # valid UTF-8 by chance
    found = read_all(write_zip(tmp_path / "x.zip", [cat, *others]))
    assert found == {i: name.encode("gbk").decode("cp437") for i, name in enumerate(CHINESE)}
    assert repr(found[1].split("/")[0]) in capsys.readouterr().err


def test_marked_zip_names_are_utf8_beside_others(tmp_path):
    raw = [CHINESE[0].encode(), CHINESE[1].encode("gbk"), GERMAN[1].encode("cp437")]
    path = write_zip(tmp_path / "x.zip", raw, marked=[0], repeated={1: CHINESE[1]})
    assert read_all(path) == {0: CHINESE[0], 1: CHINESE[1], 2: GERMAN[1]}
    # Another program renamed the file, and not the copy of its name.
    data = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data.replace(raw[1], b"dog" + raw[1][3:]))
    assert read_all(path)[1] == "dog" + raw[1][3:].decode("cp437")


def test_backslashes_of_windows_are_separators(tmp_path):
    names = [
        b"data\\cat\\0.jpg",
        b"data\\dog\\1.jpg",
        b"data\\dog\\",
        b"..\\2.jpg",
        b"C:\\x\\3.jpg",
    ]
    source = sources.open_source(write_zip(tmp_path / "x.zip", names))
    assert source.names() == ["data/cat/0.jpg", "data/dog/1.jpg"]
    assert source.read("data/dog/1.jpg") == b"1"
    assert {(name, reason) for name, reason, _ in source.skipped} == {
        ("../2.jpg", "unsafe name"),
        ("C:/x/3.jpg", "unsafe name"),
    }
    mixed = sources.open_source(write_zip(tmp_path / "y.zip", [b"a/0.jpg", b"a\\1.jpg"]))
    assert mixed.names() == ["a/0.jpg"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_tar_names(tmp_path, form):
    names = [*FRENCH, "d" * 80 + "é/3.jpg"]
    assert read_all(write_tar(tmp_path / "x.tar", [n.encode() for n in names], form)) == dict(
        enumerate(names)
    )
    latin = [b"caf\xe9/0.jpg", b"tea/1.jpg"]
    path = write_tar(tmp_path / "y.tar", latin, form)
    assert read_all(path)[0] == "caf\udce9/0.jpg"
    assert read_all(path, name_encoding="latin-1") == {0: "café/0.jpg", 1: "tea/1.jpg"}


def test_wrong_name_encoding_is_a_user_error(tmp_path):
    path = write_zip(tmp_path / "x.zip", [b"\xff\xff/0.jpg"])
    with pytest.raises(UserError, match=r"`name_encoding=gbk`: .*x\.zip has the name"):
        read_all(path, name_encoding="gbk")
    for name in ("klingon", "utf-16", "base64"):
        with pytest.raises(UserError, match=f"`name_encoding={name}` is no known encoding"):
            read_all(path, name_encoding=name)


@pytest.mark.parametrize("name", ["cat", " cat\t", "Ch\u00eane", "Che\u0302ne ", "犬 x", "a" * 200])
def test_class_names_are_composed_and_stripped(name):
    clean = class_name.normalize(name, "x")
    assert clean == unicodedata.normalize("NFC", clean).strip()
    assert unicodedata.normalize("NFD", clean) == unicodedata.normalize("NFD", name).strip()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", ["empty"]),
        (" \t", ["empty"]),
        ("line\nbreak", [r"'line\nbreak'", "printed", "rename"]),
        ("a\u2028b", [r"'a\u2028b'", "printed"]),
        ("a\0", ["printed"]),
        ("caf\udce9", [r"'caf\xe9'", "UTF-8", "rename", "`name_encoding"]),
        ("\ud800", [r"'\ud800'", "printed"]),
        ("a" * 201, ["201", "200"]),
    ],
)
def test_bad_class_name_is_one_line(name, words):
    with pytest.raises(UserError) as caught:
        class_name.normalize(name, "somewhere")
    message = str(caught.value)
    assert message.isprintable()
    for word in ["somewhere", *words]:
        assert word in message
