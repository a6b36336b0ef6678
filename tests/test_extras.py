"""Every package of every extra in pyproject.toml can be imported beside the others."""

import importlib
import importlib.metadata
import pathlib

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

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


@pytest.mark.parametrize(
    ("extra", "text"), [(extra, text) for extra, texts in EXTRAS.items() for text in texts]
)
def test_an_extra_can_be_imported(extra, text, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")  # kecam sets it, for good
    required = Requirement(text)
    if required.marker and not required.marker.evaluate():
        pytest.skip(f"this Python does not need it: {required.marker}")
    names = modules(required.name)
    if not names:
        pytest.skip(f"{required.name} is not installed: pip install 'tfpipe[{extra}]'")
    for name in names:
        importlib.import_module(name)
