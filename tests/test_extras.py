"""Every package of every extra in pyproject.toml can be imported beside the others."""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

pytestmark = pytest.mark.timeout(240)  # imports some forty packages

PYPROJECT = pathlib.Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def normal(name):
    return name.lower().replace("_", "-").replace(".", "-")


def modules(distribution):
    """The module of a distribution's own name; or else all that do not begin with _."""
    try:
        files = importlib.metadata.files(distribution)
    except importlib.metadata.PackageNotFoundError:
        return []
    packages = {file.parts[0] for file in files if file.parts[1:] == ("__init__.py",)}
    single = {file.stem for file in files if file.suffix == ".py" and len(file.parts) == 1}
    names = sorted(name for name in packages | single if not name.startswith("_"))
    return [name for name in names if normal(name) == normal(distribution)] or names


IMPORT_EACH = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""


def needed(text):
    """The requirement, unless this Python does not need it."""
    required = Requirement(text)
    return required if not required.marker or required.marker.evaluate() else None


@pytest.fixture(scope="module")
def failed():
    """The modules that a process that imports all extras cannot import, with their errors."""
    wanted = [needed(text) for texts in EXTRAS.values() for text in texts]
    names = {name: None for each in wanted if each for name in modules(each.name)}
    # Of its own, because they take memory, and kecam sets a variable for good.
    command = [sys.executable, "-c", IMPORT_EACH, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("extra", "text"), [(extra, text) for extra, texts in EXTRAS.items() for text in texts]
)
def test_an_extra_can_be_imported(extra, text, failed):
    required = needed(text)
    if not required:
        pytest.skip(f"this Python does not need it: {text}")
    names = modules(required.name)
    if not names:
        pytest.skip(f"{required.name} is not installed: pip install 'tfpipe[{extra}]'")
    assert {name: failed[name] for name in names if name in failed} == {}
