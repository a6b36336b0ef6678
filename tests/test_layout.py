"""The layout is the data flow: imports run one way, and a few packages live in one place."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# A module may import from layers before its own, and from its own layer's package.
LAYERS = [
    {"core"},
    {"records"},
    {"images"},
    {"page"},
    {"sources"},
    {"augment"},
    {"input"},
    {"model"},
    {"screens"},
    {"evaluation"},
    {"training"},
    {"runs"},
    {"reporting"},
    {"publish"},
    {"predictions"},
    {"building"},
]
ENTRY_POINTS = [
    "build_records",
    "verify_records",
    "data_service",
    "train",
    "ensemble",
    "evaluate",
    "predict",
    "export",
    "report",
]
# How a process is set up for TensorFlow and ended, wherever it runs: all that serving takes of
# tfpipe.
PROCESS_SETTINGS = (
    *("tfpipe.core.allocator", "tfpipe.core.onednn", "tfpipe.core.signals.Signals"),
    "tfpipe.page.heat_overlay",  # how all heat maps are drawn
)
TOPS = ("serving", "tools", "tests")
# What is published is tried by the server, with its client; predictions are made by any server,
# with the same client, and by an exported model, loaded as the server loads it.
USERS_OF_SERVING = ("publish", "predictions")
SERVING_ENTRY_POINTS = ["server", "client", "loadtest", "webapp"]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
RANK |= dict.fromkeys(ENTRY_POINTS, len(LAYERS))

SOURCES = sorted(
    p for folder in ("tfpipe", "serving", "tools") for p in ROOT.glob(f"{folder}/**/*.py")
)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module):
    """Returns the name below tfpipe that decides a module's layer, or None for tfpipe itself."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[1] in RANK else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    relative = path.relative_to(ROOT).with_suffix("")
    top = relative.parts[0]
    for module in imported_modules(path):
        root = module.split(".")[0]
        if top == "tfpipe":
            closed = ("tools", "tests") if relative.parts[1] in USERS_OF_SERVING else TOPS
            assert root not in closed, f"{relative} imports {module}"
        if top == "serving" and module not in PROCESS_SETTINGS:
            assert root not in ("tfpipe", "tools", "tests"), f"{relative} imports {module}"
        if top == "tfpipe" and root == "tfpipe" and part_of(module):
            own = relative.parts[1]
            if own in RANK and part_of(module) != own:
                assert RANK[part_of(module)] <= RANK[own], f"{relative} imports {module}"
                assert part_of(module) not in ENTRY_POINTS, f"{relative} imports {module}"


def test_every_module_has_a_layer():
    modules = {p.stem for p in (ROOT / "tfpipe").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert modules - {"__init__", "__pycache__"} == set(RANK)


def test_tensorflow_addons_is_imported_in_one_module():
    importers = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if any(m.split(".")[0] == "tensorflow_addons" for m in imported_modules(p))
    ]
    assert importers == ["tfpipe/training/addons.py"]


def test_readers_of_the_top_level_find_what_the_readme_promises():
    for name in (
        "pyproject.toml Makefile README.md CHANGELOG.md LICENSE .ci/run requirements.lock"
        " tfpipe tools serving tests configs records/README.md export/README.md"
    ).split():
        assert (ROOT / name).exists(), name
    assert not (ROOT / "setup.py").exists()
    assert not list(ROOT.glob("WORKSPACE*"))


@pytest.mark.parametrize(
    "module",
    [f"tfpipe.{name}" for name in ENTRY_POINTS] + [f"serving.{n}" for n in SERVING_ENTRY_POINTS],
)
def test_help_needs_no_tensorflow(module):
    """`--help` answers at once because TensorFlow, which takes seconds, is imported later."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'tensorflow.python' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_the_lock_files_name_exact_versions_with_hashes_and_no_index():
    for name in ("requirements.lock", "requirements-gpu.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        packages = [line for line in text.splitlines() if line and line[0].isalpha()]
        assert all("==" in line for line in packages)
        assert text.count("--hash=sha256:") >= len(packages)
