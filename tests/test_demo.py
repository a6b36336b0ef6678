"""The small model that comes with tfpipe, and the notebook."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import tfpipe
from tools import demo

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def cells():
    return [
        each
        for each in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        if each["cell_type"] == "code"
    ]


def test_the_shipped_model_knows_the_shipped_pictures():
    pictures = sorted((ROOT / demo.PICTURES).glob("*.jpg"))
    rows = tfpipe.load_run(ROOT / demo.SHIPPED).predict(pictures)
    assert [row.label for row in rows] == [path.stem.split("-")[1] for path in pictures]
    assert sum(path.stat().st_size for path in (ROOT / demo.SHIPPED).iterdir()) < 300_000


def test_the_notebook_is_stored_with_its_output():
    for number, cell in enumerate(cells(), start=1):
        assert cell["execution_count"] == number
        assert not any(each["output_type"] == "error" for each in cell["outputs"])
    kinds = [set(each.get("data", {})) for cell in cells() for each in cell["outputs"]]
    assert sum("image/png" in kind for kind in kinds) >= 4
    assert any("text/html" in kind for kind in kinds)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_and_its_server_answers_rightly(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells()))
    done = subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stderr
    answers = re.findall(r"^(\w+)-\d\.jpg: (\w+) ", done.stdout, re.M)
    assert len(answers) == 6
    assert sum(drawn == answer for drawn, answer in answers) >= 5
