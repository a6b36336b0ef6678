"""The code of every how-to runs in a copy of the package, as a reader would run it."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from serving_demo import running_server

PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "how-to").glob("*.md"))}
# Each block is a process that imports TensorFlow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BLOCK = re.compile(r'^```python(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```', re.M | re.S)


def blocks(page):
    """Return the file (None for code to run) and the code of each Python block."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [(match["title"], match["code"]) for match in BLOCK.finditer(text)]


@pytest.fixture
def checkout(tmp_path, records, run_dir, image_folder):
    """A copy of the package with records, a run and photos under the names of the how-tos."""
    shutil.copytree(ROOT / "tfpipe", tmp_path / "tfpipe", ignore=shutil.ignore_patterns("*.pyc"))
    (tmp_path / "serving").symlink_to(ROOT / "serving")
    for folder, target in (("records", records), ("runs", run_dir)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine").symlink_to(target)
    (tmp_path / "photos").mkdir()
    for path in sorted(image_folder.iterdir())[:3]:
        shutil.copy(path, tmp_path / "photos")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


def run(checkout, *arguments, code=""):
    done = subprocess.run(
        [sys.executable, *arguments],
        input=code,
        capture_output=True,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def follow(checkout, page):
    """Write and run the blocks of a page, and return the output of the last one."""
    said = ""
    for title, code in blocks(page):
        if title is None:
            said = run(checkout, "-", code=code)
            continue
        path = checkout / title
        text = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
        path.write_text(text + code, encoding="utf-8")
    return said


# Output of the last block of each page.
PRINTS = {
    "add-a-backbone": r"\[\[0\.5 0\.5\]\]",
    "add-a-metric": r"0\.5774",
    "add-a-signature": r"\[b'(cat|dog)' b'(cat|dog)'\] \[0\.\S+ 0\.\S+\] b'.+'",
    "add-a-source": r"\['0\.jpg', '1\.jpg', '10\.jpg'\] cat \d+",
    "add-an-augmentation": r"\(4, 64, 64, 3\) \d+\.\d+",
    "label-with-several-classes": r"(?:\('(cat|dog)',\) \{'cat': 0\.\S+ 'dog': 0\.\S+\}\s*){3}",
    "train-on-several-machines": r"\[0, 0\]",
    "tune-the-input": r"(?:\{.*\}: [\d,]+ images/s in the first epoch, [\d,]+ in the second\s*){5}",
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.large if "machines" in page else ()) for page in PRINTS],
)
def test_a_how_to_works(checkout, page):
    assert re.search(PRINTS[page] + r"\s*$", follow(checkout, page))


def test_a_database_is_a_source_of_records(checkout):
    follow(checkout, "add-a-source")
    text = PAGES["add-a-source"].read_text(encoding="utf-8")
    command = shlex.split(re.search(r"^tfpipe (build .*)$", text, re.M)[1])
    assert re.search(r"all +\d+ +\d+ +20\b", run(checkout, "-m", "tfpipe", *command))


def test_a_program_asks_a_server(checkout, export_dir):
    ((_, code),) = blocks("serve-in-production")
    with running_server(export_dir, checkout / "stderr") as server:
        code = code.replace('"127.0.0.1:8500", "mine"', f'"{server.address}", "demo"')
        *classified, failed = run(checkout, "-", code=code).splitlines()
    assert len(classified) == 3
    assert all(re.fullmatch(r"(cat|dog) [01]\.\d{3}", line) for line in classified)
    assert re.fullmatch(r"no image.*|(?!cat|dog).+", failed)


def test_every_how_to_is_tried():
    assert set(PAGES) == {*PRINTS, "serve-in-production"}
