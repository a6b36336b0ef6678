"""The list of images to leave out."""

import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.building import exclude
from tfpipe.core.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


def test_load(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# why\r\ncat.1.jpg\r\n\r\n  a b/c.jpg \nK\xc3\xa4tz.jpg\ncat.1.jpg"
    )
    assert exclude.load(str(path)) == ("cat.1.jpg", "a b/c.jpg", "Kätz.jpg")
    path.write_text("#\n\n")
    assert exclude.load(str(path)) == ()
    path.write_text("a\u2028b.jpg\nc\x85d.jpg\n", encoding="utf-8")  # no line breaks here
    assert exclude.load(str(path)) == ("a\u2028b.jpg", "c\x85d.jpg")


def test_match_by_path_or_by_file_name():
    names = ["x/1.jpg", "y/1.jpg", "1.jpg", "x/2.jpg", "3.jpg", "11.jpg"]
    assert exclude.match(["x/1.jpg"], names) == ([0], [])
    assert exclude.match(["1.jpg"], names) == ([0, 1, 2], [])
    assert exclude.match(["2.jpg", "x/1.jpg", "x/2.jpg"], names) == ([0, 3], [])
    assert exclude.match(["4.jpg", "/3.jpg", "x", "z/1.jpg", "3.jpg"], names) == (
        [4],
        ["4.jpg", "/3.jpg", "x", "z/1.jpg"],
    )
    assert exclude.match(["x/", "no/"], names) == ([0, 3], ["no/"])
    assert exclude.match([], names) == ([], [])


def test_match_a_folder_by_its_path_or_name():
    names = ["docs/1.jpg", "a/docs/x/2.jpg", "a/docs.jpg", "docs", "a/3.jpg"]
    assert exclude.match(["docs/"], names) == ([0, 1], [])
    assert exclude.match(["a/docs/"], names) == ([1], [])


def test_accents_match_in_both_forms():
    assert exclude.match(["cafe\u0301.jpg"], ["x/caf\u00e9.jpg"]) == ([0], [])


paths = st.lists(st.text("ab/", min_size=1, max_size=4), max_size=8)


@given(entries=paths, names=paths)
def test_match_against_the_plain_definition(entries, names):
    def fits(entry, name):
        folder, _, file = name.rpartition("/")
        inside = f"{folder}/".startswith(entry) or entry[:-1] in folder.split("/")
        return entry in (name, file) or (entry.endswith("/") and inside)

    assert exclude.match(entries, names) == (
        [i for i, name in enumerate(names) if any(fits(entry, name) for entry in entries)],
        [entry for entry in entries if not any(fits(entry, name) for name in names)],
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["not a file"]),
        (lambda path: path.mkdir(), ["not a file"]),
        (lambda path: os.mkfifo(path), ["not a file"]),
        (lambda path: path.write_bytes(b"\xff.jpg"), ["not UTF-8", "save it"]),
        (lambda path: path.write_bytes(b"12345678901"), ["larger than"]),
    ],
)
def test_bad_list_is_a_user_error(tmp_path, monkeypatch, make, words):
    monkeypatch.setattr(exclude, "MAX_BYTES", 10)
    path = tmp_path / "list.txt"
    make(path)
    with pytest.raises(UserError) as caught:
        exclude.load(str(path))
    for word in [f"exclude={path}", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_list_is_a_user_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="exclude="):
        exclude.load("a\0b")
    path = tmp_path / "list.txt"
    path.write_text("a.jpg\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        exclude.load(str(path))


def test_the_published_outliers(shared):
    entries = exclude.load(str(ROOT / "configs/dogs-vs-cats-outliers.txt"))
    published = (shared / "data/dogs-vs-cats/known-outliers.txt").read_text().split("\n")
    assert list(entries) == [line for line in published if line and line[0] != "#"]
    assert [sum(e.startswith(kind) for e in entries) for kind in ("cat.", "dog.")] == [30, 30]
