"""Hooks for mkdocs: add pages from outside docs/, the commands' flags, and linked files.

Pages link to each other by their paths in the repository, so that the links work there too; these
hooks rewrite them to links within the site. A linked file or folder that is not a page, such as a
module or a flagfile, gets a page that shows it.
"""

import pathlib
import posixpath
import re
import sys

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the command `mkdocs` does not add it

from tools import commands  # noqa: E402
from tools.commands import Command, Flag  # noqa: E402

# Pages outside docs/: their path in the site, and in the repository.
ELSEWHERE = {
    "records.md": "records/README.md",
    "export.md": "export/README.md",
    "serving.md": "serving/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
REFERENCE = "reference"
SOURCE = "source"
# Code, whose links stay as they are, or a link within the repository.
_CODE_OR_LINK = re.compile(
    r"^(?P<fence>```+|~~~+).*?^(?P=fence)|`[^`\n]+`|\]\((?![a-z]+:)(?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
# A flag within a sentence, as --name or --name=VALUE.
_FLAG = re.compile(r"(?<![\w`-])--[a-z]\w*(?:=[^\s,;.)]+)?")
_KINDS = {"tfpipe": "From images to an export", "serving": "Serving", "tools": "Tools"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List a page for each command under "Reference" in the navigation."""
    (pages,) = (item["Reference"] for item in config.nav if "Reference" in item)
    for folder, title in _KINDS.items():
        names = [name for name in commands.modules() if name.startswith(f"{folder}.")]
        pages.append({title: [{_title(name): _reference_page(name)} for name in names]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    described = [commands.read(name) for name in commands.modules()]
    for command in described:
        page = _reference_page(command.module)
        files.append(File.generated(config, page, content=reference(command)))
    index = f"{REFERENCE}/index.md"
    files.append(File.generated(config, index, content=reference_index(described)))
    for path in sorted(_linked_files(files)):
        page, kind = f"{SOURCE}/{path}.md", InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page, content=source(path), inclusion=kind))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite links within the repository to links within the site."""
    here = page.file.src_uri
    if page.parent is None:  # its navigation would list only itself
        page.meta["hide"] = ["navigation"]

    def within_site(match: re.Match) -> str:
        path, hash_, anchor = (match["target"] or "").partition("#")
        if not path:
            return match[0]
        target = _in_site(_in_repository(here, path))
        relative = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"]({relative}{hash_}{anchor})"

    return _CODE_OR_LINK.sub(within_site, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Mark short code, so that the style sheet forbids line breaks in it."""
    return re.sub(r"<code>(?=[^<\s]{1,36}</code>)", '<code class="word">', html)


def _in_repository(page: str, target: str) -> str:
    """Return the path in the repository of a page's link target."""
    folder = posixpath.dirname(ELSEWHERE.get(page, f"docs/{page}"))
    return posixpath.normpath(posixpath.join(folder, target))


def _in_site(path: str) -> str:
    """Return the path in the site of a file or folder of the repository."""
    pages = {there: page for page, there in ELSEWHERE.items()}
    if path in pages:
        return pages[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{SOURCE}/{path}.md"


def _linked_files(files: Files) -> set[str]:
    """Return the link targets that are not pages, by their path in the repository."""
    found = set()
    for file in files.documentation_pages():
        for match in _CODE_OR_LINK.finditer(file.content_string):
            path = (match["target"] or "").partition("#")[0]
            there = _in_repository(file.src_uri, path)
            if path and _in_site(there).startswith(f"{SOURCE}/") and (ROOT / there).exists():
                found.add(there)
    return found


def source(path: str) -> str:
    """Return a page that shows a file of the repository, or all files of a folder, by its path."""
    there = ROOT / path
    shown = sorted(p for p in there.iterdir() if p.is_file()) if there.is_dir() else [there]
    parts = ["---\nsearch:\n  exclude: true\n---", f"# {path}"]
    for each in shown:
        if there.is_dir():
            parts.append(f"## {each.name}")
        # A fence that no file contains.
        text = each.read_text(encoding="utf-8").rstrip()
        parts.append(f"~~~~~~{_language(each)}\n{text}\n~~~~~~")
    return "\n\n".join(parts)


def _language(path: pathlib.Path) -> str:
    try:
        return get_lexer_for_filename(path.name).aliases[0]
    except ClassNotFound:
        return "text"


def reference(command: Command) -> str:
    """Return the page of a command: its description, and a section for each flag."""
    text = "\n".join(
        line if line.startswith("    ") else _FLAG.sub(r"`\g<0>`", line)
        for line in command.doc.splitlines()
    )
    parts = [f"# {_title(command.module)}", text]
    if command.arguments:
        parts += ["## Arguments", *map(_argument, command.arguments)]
    if command.flags:
        parts += ["## Flags", *map(_flag, command.flags.values())]
    return "\n\n".join(parts)


def _flag(flag: Flag) -> str:
    facts = []
    if flag.choices:
        facts.append("one of " + ", ".join(f"`{choice or ' '}`" for choice in flag.choices))
    else:
        facts.append({"bool": "true or false", "": "takes no value"}.get(flag.kind, flag.kind))
    if flag.repeats:
        facts.append("may be repeated")
    if flag.default is None:
        facts.append("required")
    elif flag.default:
        facts.append(f"default `{flag.default}`")
    heading = f"### --{flag.name} {{ #{flag.name} }}"
    return f"{heading}\n\n{'; '.join(facts)}\n{{ .facts }}\n\n{_sentence(flag.help)}"


def _argument(argument: Flag) -> str:
    several = ", one or more" if argument.repeats else ""
    return f"`{argument.name}`{several}: {_sentence(argument.help)}"


def _sentence(text: str) -> str:
    """Return a flag's help as a Markdown sentence: flags become code, other markup is escaped."""

    def marked(match: re.Match) -> str:
        if match["markup"]:
            return f"\\{match[0]}"
        return match[0] if match[0].startswith("`") else f"`{match[0]}`"

    joined = re.sub(rf"`[^`]+`|{_FLAG.pattern}|(?P<markup>[\\`*_{{}}\[\]<>#|])", marked, text)
    stop = "." if joined and not joined.endswith(".") else ""
    return f"{joined[:1].upper()}{joined[1:]}{stop}"


def reference_index(described: list[Command]) -> str:
    """Return the page that lists all commands."""
    parts = [
        "# Reference",
        "The output of `--help` for each command. A flag is `--name=value`. `--verbosity` sets"
        " TensorFlow's own log: -1 none, 0 warnings, 1 all. The commands of tfpipe and the tools"
        " also accept `--name` or `--noname` for true and false, and a file with one flag a line:"
        " `--flagfile=PATH`. Put it first, because the later of two values wins.",
    ]
    for folder, title in _KINDS.items():
        rows = [
            f"| [{_title(each.module)}]({_page_name(each.module)}) | {each.summary} |"
            for each in described
            if each.module.startswith(f"{folder}.")
        ]
        parts += [f"## {title}", "\n".join(["| command | |", "| --- | --- |", *rows])]
    return "\n\n".join(parts)


def _title(module: str) -> str:
    return module.replace(".", "/") + ".py" if module.startswith("tools.") else module


def _reference_page(module: str) -> str:
    return f"{REFERENCE}/{_page_name(module)}"


def _page_name(module: str) -> str:
    return f"{module.replace('.', '-')}.md"
