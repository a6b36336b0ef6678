"""The code of docs/python.md runs, as one script without a guard."""

import re
import shutil

import pytest
from conftest import ROOT
from test_api_process import run

# No weights are downloaded here.
MODEL = 'backbones="mobilenet"'
TINY = 'backbones="small_cnn", weights="none", image_size=32, precision="float32"'


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guide_runs(image_folder, tmp_path):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    code = "\n".join(blocks)
    assert MODEL in code
    shutil.make_archive(str(tmp_path / "train"), "zip", image_folder)
    shutil.copy(image_folder / "cat.0.jpg", tmp_path / "a.jpg")
    said, _ = run(code.replace(MODEL, TINY), tmp_path)
    shown = re.search(r"# (.*)", next(block for block in blocks if "epocs" in block))[1]
    assert shown in said.splitlines()
    assert "95 % interval" in said
    assert (tmp_path / "export" / "pets" / "1" / "saved_model.pb").is_file()
