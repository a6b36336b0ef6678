"""Which files of a source are images: by their contents where names do not tell."""

import re
import tarfile
import zipfile

import numpy as np
import pytest
from pictures import draw, save

from tfpipe import build_records, sources
from tfpipe.records import manifest, rejects
from tfpipe.sources import sniff

JPEG = save(draw(40, 60), "JPEG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
IMAGES = {
    **dict.fromkeys(("photo", "a.jpg?w=200", "a.jpg_large", "a.JPG:large", "a.jpg~", "0"), JPEG),
    **dict.fromkeys(("b.PNG!thumb", "b.bin"), save(draw(40, 60), "PNG")),
    "phone": HEIC,  # it may not be readable, but it is one
    "broken.jpg": b"not an image",
    "empty.png": b"",
}
OTHERS = {
    "notes": (b"The photos are of 2023.", "text"),
    "labels.csv": (b"path,label\n", "text"),
    "meta.json": (b'{"a": 1}', "JSON"),
    "empty": (b"", "empty"),
    "array.npy": (b"\x93NUMPY\x01\0", "NumPy"),
    "index.html": (b"<html>", "web page"),
    "blob": (b"\x9c\x81\x07" * 9, "begins with"),
}


def write(path, kind):
    """Writes all these files as a folder or an archive; returns its path."""
    files = IMAGES | {name: data for name, (data, _) in OTHERS.items()}
    folder = path / "in"
    for name, data in files.items():
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        (folder / "cat" / name).write_bytes(data)
    if kind == "folder":
        return folder
    out = path / f"in.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name in files:
                archive.write(folder / "cat" / name, f"cat/{name}")
    else:
        with tarfile.open(out, "w:gz" if kind == "tgz" else "w") as archive:
            archive.add(folder / "cat", "cat")
    return out


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz"])
def test_contents_tell_what_names_do_not(tmp_path, kind):
    source = sources.open_source(str(write(tmp_path, kind)))
    found = sniff.others(source)
    assert found.keys() == {f"cat/{name}" for name in OTHERS if ":" not in name}
    for name, (_, words) in OTHERS.items():
        assert words in found[f"cat/{name}"]


def test_only_the_beginning_of_odd_names_is_read(tmp_path, monkeypatch):
    source = sources.open_source(str(write(tmp_path, "folder")))
    asked = {}
    head = type(source).head
    monkeypatch.setattr(type(source), "head", lambda *args: asked.update([args[1:]]) or head(*args))
    monkeypatch.setattr(type(source), "read", None)
    sniff.others(source)
    assert not any(name.endswith((".jpg", ".png")) for name in asked)
    assert max(asked.values()) < 1000


def test_a_file_that_cannot_be_read_may_be_an_image(tmp_path):
    source = sources.open_source(str(write(tmp_path, "folder")))
    assert source.names()
    (tmp_path / "in/cat/notes").unlink()
    assert "cat/notes" not in sniff.others(source)


def test_the_command_takes_images_of_any_name(tmp_path, capsys):
    source = write(tmp_path, "folder")
    for name in ("phone", "broken.jpg", "empty.png"):
        (source / "cat" / name).unlink()
    (source / "dog").mkdir()
    for number in range(4):
        (source / f"dog/{number}").write_bytes(save(draw(50, 40 + number), "JPEG"))
    (source / "dog/extraneous").write_bytes(JPEG[:-2] + bytes(99) + JPEG[-2:])
    scan = np.linspace(0, 4095, 900).astype(np.uint16).reshape(30, 30)
    (source / "dog/scan").write_bytes(save(scan, "PNG"))
    out = tmp_path / "out"
    options = build_records.Options(
        source=(str(source),), out=str(out), report=False, workers=1, duplicates="keep"
    )
    build_records.main(options)
    built = manifest.load(out)
    assert built.accepted == 8 + 6
    assert built.converted == {"mended": 1, "16 bit scaled": 1}
    said = capsys.readouterr().err
    assert re.search(r"without damaged bytes that hold no pixels.*: 1$", said, re.MULTILINE)
    assert re.search(r"16-bit images scaled .*--depth16=full.*: 1$", said, re.MULTILINE)
    listed = {each.path.rpartition("/")[2]: each for each in rejects.load(out)}
    assert listed.keys() == OTHERS.keys()
    assert {each.reason for each in listed.values()} == {rejects.NOT_AN_IMAGE_NAME}
