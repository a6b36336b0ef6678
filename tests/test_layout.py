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
    {"protocol"},
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
    {"search"},
    {"reporting"},
    {"publish"},
    {"predictions"},
    {"building"},
]
# Above the commands, whose functions it calls.
API = "api"
ENTRY_POINTS = [
    "inspect_records",
    "models",
    "pipeline",
    "build_records",
    "verify_records",
    "data_service",
    "train",
    "ensemble",
    "evaluate",
    "predict",
    "export",
    "report",
    "tune",
]
# What serving may import of tfpipe: the commands' helpers, the protocol, and how heat maps look.
FOR_SERVING = ("tfpipe.core.", "tfpipe.protocol.", "tfpipe.page.heat_overlay")
TOPS = ("serving", "tools", "tests")
SERVING_ENTRY_POINTS = ["server", "client", "loadtest", "webapp"]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
RANK |= dict.fromkeys(ENTRY_POINTS, len(LAYERS)) | {"commands": len(LAYERS)}
RANK[API] = len(LAYERS) + 1

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
            assert root not in TOPS, f"{relative} imports {module}"
        if top == "serving":
            assert root not in ("tools", "tests"), f"{relative} imports {module}"
            assert root != "tfpipe" or module.startswith(FOR_SERVING), (
                f"{relative} imports {module}"
            )
        if top == "tfpipe" and root == "tfpipe" and part_of(module):
            own = relative.parts[1]
            if own in RANK and part_of(module) != own:
                assert RANK[part_of(module)] <= RANK[own], f"{relative} imports {module}"
                assert own == API or part_of(module) not in ENTRY_POINTS, (
                    f"{relative} imports {module}"
                )


def test_every_module_has_a_layer():
    modules = {p.stem for p in (ROOT / "tfpipe").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert modules - {"__init__", "__main__", "__pycache__", "recipes"} == set(RANK)


def test_two_classes_have_two_names():
    """Only the flags of a command are `Options` in every command."""
    found = [
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {name for name in found if found.count(name) > 1} <= {"Options"}


def test_tensorflow_addons_is_imported_in_one_module():
    importers = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if any(m.split(".")[0] == "tensorflow_addons" for m in imported_modules(p))
    ]
    assert importers == ["tfpipe/training/addons.py"]


# The one module that names private modules of other packages: its docstring says why.
# tests/test_average.py and tests/test_fit_training.py run what it imports.
PRIVATE_ALLOWED = {"tfpipe/training/addons.py"}
PRIVATE_MODULES = ("tensorflow.python", "keras.src", "tf_keras.src")
# Underscore names that are documented for users: of named tuples, and os._exit.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}


def defined_names(path):
    """Yields the functions, classes, variables and attributes that a file defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def private_names(path):
    """Returns the underscore names and private modules of others that a file uses.

    What a class inherits from one of ours is its own.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own, used, bases = {*DOCUMENTED, *defined_names(path)}, set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases |= {base.id for base in node.bases if isinstance(base, ast.Name)}
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Store):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            used.update(a.value for a in node.args if isinstance(a, ast.Constant))
    for module in imported_modules(path):
        parent, _, name = module.rpartition(".")
        source = ROOT / f"{parent.replace('.', '/')}.py"
        if name in bases and source in SOURCES:
            own.update(defined_names(source))
    private = {name for name in used - own if str(name).startswith("_")}
    private = {name for name in private if not name.startswith("__")}
    private |= {m for m in imported_modules(path) if m.startswith(PRIVATE_MODULES)}
    return private


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_public_interfaces_are_used(path):
    if str(path.relative_to(ROOT)) not in PRIVATE_ALLOWED:
        assert not private_names(path)


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
