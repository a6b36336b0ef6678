"""The code of docs/python.md and README.md runs, as scripts without a guard."""

import re
import shutil

import pytest
from conftest import ROOT
from test_api_process import run

# No weights are downloaded here.
MODEL = 'backbones="mobilenet"'
TINY = 'backbones="small_cnn", weights="none", image_size=32, precision="float32"'


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_runs(image_folder, tmp_path):
    (code,) = blocks_of(ROOT / "README.md")
    assert MODEL in code
    shutil.make_archive(str(tmp_path / "train"), "zip", image_folder)
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(image_folder / "cat.0.jpg", tmp_path / name)
    said, _ = run(code.replace(MODEL, TINY), tmp_path)
    first, accuracy, *answers = said.splitlines()
    assert first.startswith("('cat', 'dog') {'train': ")
    assert re.fullmatch(r"accuracy [01]\.\d+, 95 % interval [01]\.\d+ to [01]\.\d+", accuracy)
    assert [re.sub(r"(cat|dog) [01]\.\d+$", "x", line) for line in answers] == [
        "a.jpg x",
        "b.jpg x",
    ]
    assert (tmp_path / "export" / "pets" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guide_runs(image_folder, tmp_path):
    blocks = blocks_of(ROOT / "docs" / "python.md")
    code = "\n".join(blocks)
    assert MODEL in code
    shutil.make_archive(str(tmp_path / "train"), "zip", image_folder)
    shutil.copy(image_folder / "cat.0.jpg", tmp_path / "a.jpg")
    said, _ = run(code.replace(MODEL, TINY), tmp_path)
    shown = re.search(r"# (.*)", next(block for block in blocks if "epocs" in block))[1]
    assert shown in said.splitlines()
    assert "95 % interval" in said
    assert (tmp_path / "export" / "pets" / "1" / "saved_model.pb").is_file()
