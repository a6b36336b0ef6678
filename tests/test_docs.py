"""The documentation shows existing flags, and its site needs no network."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types

import pytest
from conftest import ROOT
from test_layout import ENTRY_POINTS, SERVING_ENTRY_POINTS
from test_links import PAGES

from tfpipe.commands import MODULES
from tools import commands

pytestmark = pytest.mark.timeout(300)  # for the builds of the site

CODE = re.compile(r"^```.*?\n(.*?)^```|`([^`\n]+)`", re.M | re.S)
FLAG = re.compile(r"--([a-z][a-z0-9_]*)(?:=(.*))?")
ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<"}


@pytest.fixture(scope="module")
def known():
    """All commands, by their names on a page."""
    found = {}
    for module in commands.modules():
        folder, _, name = module.rpartition(".")
        found[f"tools/{name}.py" if folder == "tools" else module] = commands.read(module)
    found |= {f"tfpipe {name}": found[module] for name, module in MODULES.items()}
    return found


def lines_of_code(page):
    """Yield each line or span of code of a page, and whether it is a whole line."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.S)
    for block, span in CODE.findall(text):
        if span:
            yield span, False
        for line in block.replace("\\\n", " ").splitlines():
            yield line.removeprefix("$ "), True


def words(line):
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # an apostrophe, as in output
        return line.split()


def invocation(line, known):
    """Return the command that a line runs, and its flags as (name, value or None)."""
    command, found = None, []
    before = ""
    for word in words(line):
        if command is None:
            command = known.get(word) or known.get(f"{before} {word}")
            before = word
        elif word in ENDS:
            break
        elif match := FLAG.fullmatch(word):
            found.append(match.groups())
    return command, found


def takes(command, name, value):
    """Return whether a command has a flag that accepts a value."""
    if name in commands.COMMON:
        return True
    flag = command.flags.get(name)
    if flag is None:
        off = command.flags.get(name.removeprefix("no"))
        return name.startswith("no") and off is not None and off.kind == "bool" and value is None
    # Capitals are placeholders.
    return value is None or re.fullmatch(r"[A-Z_]+|\.\.\.", value) or flag.accepts(value)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "history"],  # whose commands are of that time
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_commands_have_the_flags_they_are_shown_with(page, known):
    for line, _ in lines_of_code(page):
        command, given = invocation(line, known)
        for name, value in given if command else ():
            assert takes(command, name, value), f"{line}: --{name}"


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.name != "CHANGELOG.md" and p.parent.name != "history"],  # of what was
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_flags_in_a_sentence_are_those_of_some_command(page, known):
    for line, is_whole in lines_of_code(page):
        if is_whole or not line.startswith("--"):
            continue
        for match in filter(None, map(FLAG.fullmatch, words(line))):
            assert any(takes(each, *match.groups()) for each in known.values()), line


def test_wrong_flags_are_found(known):
    name, given = invocation("python -m tfpipe.train --epochs=ten --record=x --nodescribe", known)
    assert name.module == "tfpipe.train"
    assert [takes(name, *each) for each in given] == [False, False, True]
    name, given = invocation("cat x | python tools/demo.py --count=3 | wc --lines", known)
    assert (name.module, given) == ("tools.demo", [("count", "3")])
    assert not takes(known["serving.loadtest"], "rate", "-1")
    assert not takes(known["tfpipe.train"], "precision", "float15")


def test_every_entry_point_is_a_command(known):
    expected = {f"tfpipe.{name}" for name in ENTRY_POINTS}
    expected |= {f"serving.{name}" for name in SERVING_ENTRY_POINTS}
    assert {
        name for name in known if not name.startswith(("tools/", "tools.", "tfpipe "))
    } == expected
    assert {f"tools.bench.{name}" for name in ("input", "records", "serving", "train")} <= set(
        known
    )


def test_flags_are_those_of_the_help(known):
    command = [sys.executable, "-m", "tfpipe.train", "--helpfull"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    shown = set(re.findall(r"^  (?:-h, )?--(\w+)", done.stdout, re.M))
    assert set(known["tfpipe.train"].flags) == shown - set(commands.COMMON)
    for flag in known["tfpipe.train"].flags.values():
        assert " ".join(flag.help.split())[:40] in " ".join(done.stdout.split())


def build(folder, *arguments):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install 'tfpipe[docs]'")
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'tfpipe[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow  # builds the site
def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site, known):
    for page in ROOT.glob("docs/**/*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).exists()
    for name in ("records", "export", "serving", "changelog"):
        assert (site / f"{name}.html").exists()
    for command in known.values():
        text = (site / "reference" / f"{command.module.replace('.', '-')}.html").read_text("utf-8")
        assert all(f'id="{name}"' in text for name in command.flags)
    loaded = re.compile(
        r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
    )
    for page in site.glob("**/*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {each["location"] for each in index["docs"]}
    assert "reference/tfpipe-train.html#feature_views" in places
    assert not any(place.startswith("source/") for place in places)
    for sheet in site.glob("assets/**/*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?https?:", sheet.read_text(encoding="utf-8"))


@pytest.mark.slow  # builds the site
def test_a_broken_link_fails(site, tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with open(tmp_path / "docs" / "index.md", "a", encoding="utf-8") as page:
        page.write("\n[one](nowhere.md) [two](training.md#nowhere) [three](../tfpipe/none.py)\n")
    config = tmp_path / "mkdocs.yml"
    hook = ROOT / "tools" / "mkdocs_hooks.py"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: [{hook}]\n")
    done = build(tmp_path / "site", f"--config-file={config}")
    assert done.returncode != 0
    for target in ("nowhere.md", "training.md#nowhere", "source/tfpipe/none.py.md"):
        assert target in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("index.md", "[a](../records/README.md#shards)", "[a](records.md#shards)"),
        ("records.md", "[a](../configs/x.txt)", "[a](source/configs/x.txt.md)"),
        ("records.md", "[a](../docs/input.md)", "[a](input.md)"),
        ("how-to/x.md", "[a](../../export/README.md)", "[a](../export.md)"),
        ("how-to/x.md", "[a](../training.md#stages)", "[a](../training.md#stages)"),
        ("index.md", "[a](#here) [b](https://x.org/y.md)", "[a](#here) [b](https://x.org/y.md)"),
        ("index.md", "`[a](../b.py)`", "`[a](../b.py)`"),
        ("index.md", "```\n[a](../b.py)\n```\n", "```\n[a](../b.py)\n```\n"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page, text, expected):
    hooks = pytest.importorskip("tools.mkdocs_hooks")
    there = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=page), parent=object())
    assert hooks.on_page_markdown(text, there) == expected


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("needs Chromium, which is not installed here")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])


@pytest.mark.slow  # builds the site
def test_the_search_works_without_a_network_and_no_page_is_too_wide(site, browser):
    page = browser.new_context(offline=True).new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((site / "tutorial.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("feature_views")
    page.click(".md-search-result__link")
    page.wait_for_url("**/reference/tfpipe-train.html*")
    assert not errors
    page.set_viewport_size({"width": 390, "height": 844})  # a phone
    for name in "index tutorial reference/index reference/tfpipe-train benchmarks records".split():
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_selector(".md-content h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
