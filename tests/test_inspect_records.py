"""The contact sheet and the table of a data set."""

import pathlib
import shutil
import sys

import pytest
from PIL import Image, ImageFont

from tfpipe import cli
from tfpipe.errors import UserError
from tools import inspect_records
from tools.inspect_records import Options, Picture

SHARD = "val-00000-of-00003.tfrecord"


def test_table_and_sheet(records, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    inspect_records.main(Options(records=str(records), count=7, out=str(out)))
    shown = capsys.readouterr().out
    assert "6 shards, 80 records" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[:3] for row in rows if row[:1] in (["cat"], ["dog"], ["all"])] == [
        ["cat", "40", "40"],
        ["dog", "40", "40"],
        ["all", "80", "80"],
    ]
    with Image.open(out) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        assert len(sheet.getcolors(2**24)) > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_one_shard_without_a_sheet(records, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inspect_records.main(Options(records=str(records), shard=SHARD, out=""))
    assert f"{SHARD}: " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def picture(label="cat", filename="cat.0.jpg"):
    return Picture(label, "#0072b2", filename, Image.new("RGB", (168, 100), "red"))


@pytest.mark.parametrize("count", [0, 1, 6, 7, 24, 100])
def test_a_sheet_holds_all_its_pictures(count):
    sheet = inspect_records.draw_sheet([picture()] * count, "title")
    red = sum(n for n, color in sheet.getcolors(2**24) if color == (255, 0, 0))
    assert red == count * 168 * 100


def test_long_names_keep_their_ends():
    font = ImageFont.load_default(13)
    short = inspect_records._shorten("a" * 10_000 + "\n.jpg", font, 168)
    assert short.startswith("aaa")
    assert short.endswith(".jpg")
    assert font.getlength(short) <= 168
    inspect_records.draw_sheet([picture("\u732b" * 99, "x\ud800\n" * 999)], "t" * 999)


def test_errors_are_one_line(records, tmp_path, capsys, monkeypatch):
    damaged = pathlib.Path(shutil.copytree(records, tmp_path / "toy"))
    content = (damaged / SHARD).read_bytes()
    (damaged / SHARD).write_bytes(content[:-1] + b"?")
    (damaged / SHARD.replace("00000", "00001", 1)).write_bytes(b"")
    for flags, message in [
        (["--shard=x"], "--shard=x is not in"),
        ([f"--shard={SHARD}"], "verify_records"),
        ([f"--shard={SHARD.replace('00000', '00001', 1)}"], "0 records where manifest.json says"),
        (["--count=0"], "from 1 to 400"),
        (["--out=sheet.gif"], ".png"),
        (["--out=nowhere/sheet.png"], "folder does not exist"),
    ]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["inspect", f"--records={damaged}", *flags])
        with pytest.raises(SystemExit) as end:
            cli.run(inspect_records.main, Options, keep_freed_memory=False)
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code in (1, 2)
        assert line.startswith("error: ")
        assert message in line
    assert not (tmp_path / "sheet.png").exists()


def test_a_missing_data_set(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json does not exist"):
        inspect_records.main(Options(records=str(tmp_path), out=""))
