"""Lists of files and labels, in the forms that people have them."""

import collections
import csv
import json
import os
import pathlib
import pickle

import hypothesis
import pytest
from hypothesis import strategies as st

from tfpipe import sources
from tfpipe.building import catalog
from tfpipe.core.errors import UserError
from tfpipe.sources import label_list, text_table
from tfpipe.sources.list_columns import Columns

FILES = [f"img/{name}_{number}.jpg" for name in ("cat", "dog") for number in range(3)]
ROWS = [(path, path[4:7]) for path in FILES]


def table(separator=",", header=("path", "label"), rows=ROWS, end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in [header, *rows] if row)


def records(path="path", label="label"):
    return [{path: file, label: name} for file, name in ROWS]


def columns(path="image", label="breed"):
    return {path: [file for file, _ in ROWS], label: [name for _, name in ROWS]}


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of ROWS."""
    for number, path in enumerate(FILES):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"%d" % number)
    return tmp_path


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def labels_of(path, columns=Columns(), **options):  # noqa: B008 (it is immutable)
    """Return the label of each file that a list names, by the file's bytes."""
    (source,) = sources.open_sources([path], sources.Options(**options), columns)
    said = source.annotations(columns)
    return {int(source.read(name)): said[name].label for name in source.names()}


EXPECTED = {number: name for number, (_, name) in enumerate(ROWS)}
BASES = [(path[4:], name) for path, name in ROWS]
IDS = [(path[4:-4], name) for path, name in ROWS]
BACKSLASHES = [(path.replace("/", "\\"), name) for path, name in ROWS]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("comma.csv", table()),
        ("semicolon.csv", table(";")),
        ("tab.csv", table("\t")),
        ("pipe.tsv", table("|")),
        ("mac.csv", table(end="\r")),
        ("blanks.csv", table(" , ")),
        (
            "quoted.csv",
            table('","', rows=ROWS, end='"\n').replace("img", '"img').replace('path"', '"path"'),
        ),
        ("excel.csv", "sep=;\r\n" + table(";", end="\r\n")),
        ("bom.csv", b"\xef\xbb\xbf" + table().encode()),
        ("utf16.csv", table(";").encode("utf-16")),
        ("utf16be.csv", b"\xfe\xff" + table("\t").encode("utf-16-be")),
        ("utf16le.csv", table().encode("utf-16-le")),
        ("empty-rows.csv", table() + ",\n\n,\n"),
        ("empty-column.csv", table(end=",\n")),
        (
            "index.csv",
            table(header=("", "image", "label"), rows=[(i, *r) for i, r in enumerate(ROWS)]),
        ),
        ("capitals.csv", table(header=("Path", "LABEL"))),
        ("file-name.csv", table(header=("File Name", "class_name"))),
        ("breed.csv", table(header=("image", "breed"))),
        ("unknown.csv", table(header=("bild", "art"))),
        (
            "number.csv",
            table(header=("nr", "bild", "art"), rows=[(i, *r) for i, r in enumerate(ROWS)]),
        ),
        ("user.csv", table(header=("user.id", "image", "emotion"), rows=[(7, *r) for r in ROWS])),
        ("mask.csv", table(header=("mask", "image", "label"), rows=[(FILES[0], *r) for r in ROWS])),
        ("backslashes.csv", table(rows=BACKSLASHES)),
        ("ids.csv", table(header=("id", "breed"), rows=IDS)),
        ("file-names.csv", table(header=("image", "species"), rows=BASES)),
        ("no-header.csv", table(header=())),
        ("name.csv", table(header=("image", "name"))),
        ("no-header-ids.csv", table(header=(), rows=IDS)),
        ("words.txt", table(" ", header=())),
        ("words-of-ids.txt", table(" ", header=("image_id", "class"), rows=IDS)),
        ("tabs.txt", table("\t", header=())),
        ("array.json", json.dumps(records("file_name"))),
        ("pairs.json", json.dumps(ROWS)),
        ("mapping.json", json.dumps(dict(ROWS))),
        ("by-path.json", json.dumps({path: {"label": name, "width": 1} for path, name in ROWS})),
        ("columns.json", json.dumps(columns())),
        (
            "pandas.json",
            json.dumps({k: {str(i): c for i, c in enumerate(v)} for k, v in columns().items()}),
        ),
        ("data.json", json.dumps({"version": 1, "data": records("file", "category")})),
        ("lines.jsonl", "\n".join(map(json.dumps, records("image")))),
        ("lines.json", "\n".join(map(json.dumps, records("img", "target")))),
        ("array.jsonl", json.dumps(records(), indent=1)),
    ],
)
def test_every_form_names_the_same_files_and_labels(folder, name, data):
    path = write(folder / name, data)
    assert labels_of(path) == EXPECTED
    # The same list beside the folder of the images, for the images of that folder.
    (source,) = sources.open_sources([str(folder / "img")])
    files = [(name, source.locate(name)) for name in source.names()]
    found = label_list.annotate(path, files, Columns())
    assert [each.label for each in found] == [name[:3] for name, _ in files]


def test_what_is_understood_is_one_line(folder, capsys):
    rows = [
        (*row, "ann", split)
        for row, split in zip(ROWS, ["Training", "dev", "TEST"] * 2, strict=True)
    ]
    path = write(folder / "l.csv", table(";", ("Bild", "emotion", "who", "Subset"), rows))
    named = Columns(group="who")
    (source,) = sources.open_sources([path], columns=named)
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("'Bild' is the path", "'emotion' the label", "'Subset' the split", "6 of 6"):
        assert words in line
    said = source.annotations(named)
    assert collections.Counter(each.split for each in said.values()) == {
        "train": 2,
        "val": 2,
        "test": 2,
    }
    assert {each.group for each in said.values()} == {"ann"}


def test_numbers_may_be_labels_and_ids(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    rows = [{"id": number, "label": number % 2} for number in range(3)]
    path = write(tmp_path / "l.json", json.dumps(rows))
    assert labels_of(path) == {0: "0", 1: "1", 2: "0"}


def test_named_columns_count(folder):
    rows = [(*row, "x", row[1].upper(), "fit" if i else "test") for i, row in enumerate(ROWS)]
    path = write(folder / "l.csv", table(header=("a", "label", "mask", "class", "part"), rows=rows))
    assert set(labels_of(path).values()) == {"cat", "dog"}
    assert set(labels_of(path, Columns(label="class")).values()) == {"CAT", "DOG"}
    for named, options, words in (
        (Columns(label="breed"), {}, ["`label_column=breed`", "'label', 'mask'"]),
        (Columns(), {"path_column": "file"}, ["`path_column=file`", "'a', 'label'"]),
        (Columns(split="part"), {}, ["line 3", "'fit'", "train, val, test"]),
    ):
        with pytest.raises(UserError) as caught:
            labels_of(path, named, **options)
        for word in [path, *words]:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.csv", "", ["empty"]),
        ("x.csv", "\n \n", ["line 1", "empty"]),
        ("x.csv", "<!DOCTYPE html><title>Login", ["web page"]),
        ("x.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:1", ["git lfs pull"]),
        ("x.csv", "path,label\n", ["no rows"]),
        (
            "x.csv",
            table(header=("a", "label", "label"), rows=[(*r, 1) for r in ROWS]),
            ["may be 'label'"],
        ),
        (
            "x.csv",
            table(header=("image", "class", "breed"), rows=[(*r, 1) for r in ROWS]),
            ["'class' or 'breed'", "`label_column`"],
        ),
        (
            "x.csv",
            table(header=("a", "b", "c", "d"), rows=[(*r, 1, 2) for r in ROWS]),
            ["'b' or 'c' or 'd'"],
        ),
        (
            "x.csv",
            table(header=("image", "file", "y"), rows=[(r[0], FILES[0], r[1]) for r in ROWS]),
            ["'image' or 'file'", "`path_column`"],
        ),
        ("x.csv", "a,b\n1,2\n", ["no column names files", "'a', 'b'", "`path_column`"]),
        ("x.csv", table() + "b.jpg\n", ["line 8", "1 cells"]),
        ("x.csv", table() + "b,1.jpg,dog\n", ["line 8", "3 cells", "quote"]),
        ("x.csv", table() + "b.jpg, \n", ["line 8", "no label"]),
        ("x.csv", table() + ",cat\n", ["line 8", "no path"]),
        ("x.csv", table() + FILES[0] + ",dog\n", ["line 8", "'dog'", "'cat'", "line 2"]),
        ("x.csv", table() + f".//{FILES[0]},dog\n", ["line 8", "'dog'", "line 2"]),
        ("x.csv", table(rows=[*BASES, (FILES[0], "dog")]), ["line 8", "'dog'", "line 2"]),
        ("x.csv", table() + '"a.jpg,cat\n', ["line 8", "not CSV"]),
        ("x.csv", table().encode() + b"\xff.jpg,cat\n", ["line 8", "utf-8"]),
        ("x.csv", table() + "a\0.jpg,cat\n", ["line 8"]),
        ("x.csv", table() + "a.jpg," + "c" * 201 + "\n", ["line 8", "200"]),
        ("x.csv", table() + 'a.jpg,"c\nd"\n', ["line 9", "printed"]),
        ("x.csv", table() + "c" * 200_000 + ",d\n", ["line 8", "not CSV"]),
        ("x.csv", b"PK\3\4" + bytes(50), ["Excel"]),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat"}\n{"path"\n', ["line 2", "not JSON"]),
        ("x.jsonl", "[1]\n", ["entry 1", "not a JSON object"]),
        ("x.jsonl", '{"path": "a.jpg", "label": [1]}\n', ["line 1", "list"]),
        ("x.jsonl", '{"path": "\\ud800", "label": "x"}\n', ["line 1", "path"]),
        ("x.jsonl", "[" * 10**6, ["line 1", "not JSON"]),
        (
            "x.json",
            '{"images": [{"id": 1}], "annotations": [{"id": 1}]}',
            ["'images', 'annotations'"],
        ),
        ("x.json", '[["a.jpg", "cat"], ["b.jpg"]]', ["entry 2"]),
    ],
)
def test_bad_list_is_one_line(folder, name, data, words):
    path = write(folder / name, data)
    with pytest.raises(UserError) as caught:
        labels_of(path)
    for word in [path, *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "separator"), [("C:\\Users\\me\\", "\\"), ("/home/ann/x/", "/"), ("photos/", "/")]
)
def test_paths_of_another_machine_say_what_is_here(folder, prefix, separator):
    rows = [(prefix + path.replace("/", separator), name) for path, name in ROWS]
    path = write(folder / "l.csv", table(rows=rows))
    (folder / "elsewhere").mkdir()
    far = write(folder / "elsewhere/l.csv", table(rows=rows))
    files = [(name, str(folder / name)) for name in FILES]
    for call in (lambda: labels_of(path), lambda: label_list.annotate(far, files, Columns())):
        with pytest.raises(UserError) as caught:
            call()
        for words in (repr(rows[0][0]), "other 5", f"'{FILES[0]}' is here", f"remove {prefix!r}"):
            assert words in str(caught.value)
    with pytest.raises(UserError, match=r"no file is at.*labels=csv:"):
        labels_of(far)


def test_a_path_that_may_be_two_files_is_an_error(folder):
    (folder / "test").mkdir()
    (folder / "test/cat_0.jpg").write_bytes(b"9")
    for name, rows in (("ids.csv", IDS), ("bases.csv", BASES)):
        path = write(folder / name, table(rows=rows))
        with pytest.raises(UserError, match=r"line 2: 'cat_0.*' may be 'img/cat_0.jpg' or 'test/"):
            labels_of(path)
    assert labels_of(write(folder / "l.csv", table())) == EXPECTED
    # Of a text and an image of one name, the image is meant.
    (folder / "test/cat_0.jpg").unlink()
    (folder / "test/cat_0.xml").write_bytes(b"9")
    assert labels_of(str(folder / "ids.csv")) == EXPECTED


def test_accents_of_macos_are_found(tmp_path):
    composed, decomposed = "Ch\u00eane", "Che\u0302ne"
    for number, name in enumerate((composed, decomposed)):
        (tmp_path / f"{number} {name}.jpg").write_bytes(b"%d" % number)
    rows = [(f"0 {decomposed}.jpg", composed), (f"1 {composed}.jpg", decomposed)]
    path = write(tmp_path / "l.csv", table(rows=rows))
    assert labels_of(path) == {0: composed, 1: composed}
    files = [
        (name, str(tmp_path / name)) for name in sorted(os.listdir(tmp_path)) if ".jpg" in name
    ]
    assert [a.label for a in label_list.annotate(path, files, Columns())] == [composed, composed]


def test_a_list_labels_files_of_several_sources(tmp_path):
    names = ["a/1.jpg", "b/1.jpg", "b/sub/2.jpg"]
    files = [(name.partition("/")[2], str(tmp_path / name)) for name in names]
    rows = [("a/1.jpg", "cat"), ("b/1.jpg", "dog"), ("2.jpg", "cow")]
    path = write(tmp_path / "l.csv", table(rows=rows))
    found = label_list.annotate(path, files, Columns())
    assert [each.label for each in found] == ["cat", "dog", "cow"]
    path = write(tmp_path / "short.csv", table(rows=rows[:1]))
    assert label_list.annotate(path, files, Columns())[1:] == [None, None]
    path = write(tmp_path / "twice.csv", table(rows=[("1.jpg", "cat")]))
    with pytest.raises(UserError, match=r"'1.jpg' may be '.*a/1.jpg' or '.*b/1.jpg'"):
        label_list.annotate(path, files, Columns())
    path = write(tmp_path / "paths.csv", "path\na/1.jpg\n")
    with pytest.raises(UserError, match="no column is the label"):
        label_list.annotate(path, files, Columns())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.csv", "path,label,group\na.jpg,cat,7\nb.jpg,dog,\n", {"a.jpg": "7"}),
        ("x.csv", ",group,path,label\n0, ann ,a.jpg,cat\n", {"a.jpg": "ann"}),
        ("x.csv", "path,label,Group\na.jpg,cat,7\n", {"a.jpg": "7"}),
        ("x.csv", "path,label\na.jpg,cat\n", {}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat", "group": 7}', {"a.jpg": "7"}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat", "group": "é"}', {"a.jpg": "é"}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat", "group": null}', {}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat"}', {}),
    ],
)
def test_groups_of_a_list(tmp_path, name, text, expected):
    (tmp_path / "a.jpg").write_bytes(b"1")
    source = sources.open_source(write(tmp_path / name, text))
    found = source.annotations(Columns(group="group"))
    assert {name: each.group for name, each in found.items() if each.group} == expected
    # An empty name selects no column, not even one without a name.
    assert not any(each.group for each in source.annotations().values())
    assert sources.open_source(str(tmp_path)).annotations(Columns(group="group")) == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "path,label,group,group\na.jpg,b,1,1", ["2 columns", "'group'"]),
        ("x.csv", "path,label,group\na.jpg,cat,1\na.jpg,cat,2\n", ["line 3", "'2'", "line 2"]),
        ("x.csv", f"path,label,group\na.jpg,cat,{'g' * 201}\n", ["line 2", "not a group", "200"]),
        ("x.csv", "path,label,group\na.jpg,cat,a\tb\n", ["line 2", "not a group"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": [1]}', ["line 1", "group is a list"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": true}', ["group is a bool"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": 1.5}', ["group is a float"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": "\\ud800"}', ["not a group"]),
    ],
)
def test_bad_group_is_a_user_error(tmp_path, name, text, words):
    for file in ("a", "a.jpg"):
        write(tmp_path / file, b"1")
    path = write(tmp_path / name, text)
    with pytest.raises(UserError) as caught:
        labels_of(path, Columns(group="group"))
    for word in [path, *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_column_without_a_list_is_an_error(folder):
    opened = sources.open_sources([str(folder)])
    with pytest.raises(UserError, match=r"`label_column=breed` is for lists.*`labels=csv:FILE`"):
        catalog.read(opened, "auto", Columns(label="breed"))


def write_list(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(
                json.dumps({"path": name, "label": label}) + "\n" for name, label in rows
            )
        else:
            csv.writer(file).writerows([("path", "label"), *rows])
    return str(path)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_list_may_lead_anywhere(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a, b.jpg").write_bytes(b"1")
    (tmp_path / "ü.jpg").write_bytes(b"2")
    (tmp_path / "lists").mkdir()
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to("ü.jpg")
    far = str(tmp_path / "ü.jpg")
    rows = [
        ("../in/a, b.jpg", "cat"),
        (far, " dog "),
        ("../link.jpg", "dog"),
        ("gone.jpg", "dog"),
        ("../fifo.jpg", "dog"),
        (".//../in/a, b.jpg", "cat"),
    ]
    source = sources.open_source(write_list(tmp_path / "lists" / name, rows))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own)
    assert copy.names() == source.names() == sorted(["../in/a, b.jpg", "../link.jpg", far])
    assert [copy.read(n) for n in ("../in/a, b.jpg", "../link.jpg", far)] == [b"1", b"2", b"2"]
    assert {name: reason for name, reason, _ in source.skipped} == {
        "gone.jpg": "missing",
        "../fifo.jpg": "special file",
        "../in/a, b.jpg": "repeated name",
    }
    assert source.annotations()[far].label == "dog"
    assert source.annotations()["gone.jpg"].label == "dog"
    assert os.path.samefile(source.locate("../in/a, b.jpg"), tmp_path / "in/a, b.jpg")


def test_a_list_without_labels_will_do_where_none_are_needed(folder):
    path = write(folder / "l.txt", "\n".join(FILES))
    (source,) = sources.open_sources([path])
    assert source.names() == sorted(FILES)
    assert {each.label for each in source.annotations().values()} == {""}
    with pytest.raises(UserError, match="label"):
        catalog.read([source], "filename")


def test_long_list_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_table, "MAX_BYTES", 20)
    with pytest.raises(UserError, match="divide it"):
        sources.open_source(write_list(tmp_path / "x.csv", [("a.jpg", "cat")] * 9))


TEXT = st.text(st.sampled_from('pathlbe,;\t"\n\r\0{}[]: 1\\u\ud800é')) | st.text()
LINES = st.lists(TEXT | st.sampled_from(["path,label", "a,b", "a b", '{"path":"a","label":"b"}']))
VALUES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["path", "a.jpg", "cat", "\ud800"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["path", "label", "0"]), inner),
)


@hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    st.sampled_from(["x.csv", "x.jsonl", "x.json", "x.txt"]),
    st.binary()
    | LINES.map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
    | VALUES.map(lambda value: json.dumps(value).encode()),
)
def test_list_of_anything_raises_nothing_else(tmp_path, name, data):
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = pathlib.Path(write(tmp_path / name, data))
    try:
        (source,) = sources.open_sources([str(path)], columns=Columns())
        for member in source.names():
            source.read(member)
    except (UserError, sources.Rejected):
        pass
