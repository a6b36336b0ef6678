"""The page and the table of a data set."""

import importlib.util
import io
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageOps

from tests import commands
from tests.refusals import refused
from tfpipe import inspect_records
from tfpipe.inspect_records import Options
from tfpipe.page import thumbnail
from tfpipe.records import manifest
from tfpipe.records.example import ImageExample
from tfpipe.reporting import dataset_plots as plots

SHARD = "val-00000-of-00003.tfrecord"


def test_table_and_sheet(records, tmp_path, capsys):
    out = tmp_path / "sheet.html"
    inspect_records.main(Options(records=str(records), count=7, out=str(out)))
    shown = capsys.readouterr().out
    assert "6 shards, 80 records" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[:3] for row in rows if row[:1] in (["cat"], ["dog"], ["all"])] == [
        ["cat", "40", "40"],
        ["dog", "40", "40"],
        ["all", "80", "80"],
    ]
    page = out.read_text(encoding="utf-8")
    assert page.count("<img ") == page.count('src="data:image/jpeg;base64,') == 7
    inspect_records.main(Options(records=str(records), shard=SHARD, out=""))
    assert f"{SHARD}: " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.html"]


def test_plots(records, image_folder, tmp_path, capsys):
    folder = tmp_path / "new" / "plots"
    inspect_records.main(Options(records=str(records), out="", plots=str(folder)))
    assert "size.png, aspect.png, classes.png" in capsys.readouterr().err
    paths = list(image_folder.iterdir())
    columns = (
        *zip(*(Image.open(path).size for path in paths), strict=True),
        [p.name[:3] for p in paths],
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "size.png": plots.size(*columns),
        "aspect.png": plots.aspect(*columns),
        "classes.png": plots.classes(manifest.load(records).splits),
    }


def test_plots_need_matplotlib(records, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for changes in ({"out": "", "plots": str(tmp_path / "plots")}, {"out": "sheet.html"}):
        with refused("not installed"):
            inspect_records.main(Options(records=str(records), **changes))
    assert not list(tmp_path.iterdir())


def test_inspecting_needs_no_tensorflow(records, tmp_path):
    code = (
        "import sys\n"
        "from tfpipe import inspect_records\n"
        f"options = inspect_records.Options(records={str(records)!r}, out='sheet.html')\n"
        "inspect_records.main(options)\n"
        "assert 'tensorflow.python' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.html").exists()


@pytest.mark.parametrize("format", ["raw", "jpeg", "png"])
def test_a_picture_is_the_record_made_small(format):
    ramp = Image.linear_gradient("L").resize((600, 400))
    image = Image.merge("RGB", (ramp, ImageOps.mirror(ramp), ImageOps.flip(ramp)))
    encoded = image.tobytes()
    if format != "raw":
        file = io.BytesIO()
        image.save(file, format, quality=98, subsampling=0)
        encoded = file.getvalue()
    record = ImageExample(encoded, format, 400, 600, 8, "dog", "a.jpg", "", -1, False)
    made = thumbnail.of_record(record, 168)
    expected = image.resize((168, 112), Image.Resampling.BOX)
    assert made.size == expected.size
    difference = ImageChops.difference(made, expected)
    assert max(high for _, high in difference.getextrema()) <= 6


def test_errors_are_one_line(records, tmp_path):
    damaged = pathlib.Path(shutil.copytree(records, tmp_path / "toy"))
    content = (damaged / SHARD).read_bytes()
    (damaged / SHARD).write_bytes(content[:-1] + b"?")
    (damaged / SHARD.replace("00000", "00001", 1)).write_bytes(b"")
    for flag, message in {
        "--shard=x": "--shard=x is not in",
        f"--shard={SHARD}": "verify_records",
        f"--shard={SHARD.replace('00000', '00001', 1)}": "0 records where manifest.json says",
        "--count=0": "[1, 400]",
        "--out=sheet.gif": ".html",
        "--out=nowhere/sheet.html": "folder does not exist",
        f"--plots={damaged}/manifest.json": "File exists: name another folder",
        f"--records={tmp_path}": "manifest.json does not exist",
    }.items():
        flags = f"--records={damaged}", flag
        done = commands.run(inspect_records.main, Options, *flags, cwd=tmp_path)
        commands.assert_one_error(done, message)
        assert not done.stdout
    assert not (tmp_path / "sheet.html").exists()
