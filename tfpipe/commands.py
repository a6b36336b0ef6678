"""One command for all others: `tfpipe train ...` runs `python -m tfpipe.train ...`."""

import ast
import difflib
import importlib.metadata
import importlib.util
import pathlib
import platform
import runpy
import sys

from tfpipe.core import completion, terminal
from tfpipe.core.recipes import RECIPES

# Headings, and below each the commands with their modules.
COMMANDS = {
    "From images to a model that answers": {
        "pipeline": "tfpipe.pipeline",
        "build": "tfpipe.build_records",
        "train": "tfpipe.train",
        "evaluate": "tfpipe.evaluate",
        "report": "tfpipe.report",
        "export": "tfpipe.export",
        "predict": "tfpipe.predict",
        "ensemble": "tfpipe.ensemble",
        "models": "tfpipe.models",
        "tune": "tfpipe.tune",
    },
    "Serving": {
        "serve": "serving.server",
        "client": "serving.client",
        "webapp": "serving.webapp",
        "loadtest": "serving.loadtest",
    },
    "Data sets": {
        "inspect": "tfpipe.inspect_records",
        "verify": "tfpipe.verify_records",
        "data-service": "tfpipe.data_service",
    },
}
MODULES = {name: module for group in COMMANDS.values() for name, module in group.items()}
_COMPLETION = "completion"


def main() -> None:
    """Run the command that the first argument names."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in MODULES:
        sys.argv = [f"tfpipe {name}", *rest]
        runpy.run_module(MODULES[name], run_name="__main__", alter_sys=True)
    elif name == _COMPLETION and rest and rest[0] in completion.SHELLS:
        print(completion.script(rest[0], MODULES), end="")
    elif name in ("--help", "-h", "help"):
        print(overview())
    elif name in ("--version", "version"):
        print(version())
    else:
        terminal.error(_unknown(name))
        sys.exit(2)


def overview() -> str:
    """Return the text of `tfpipe --help`."""
    lines = [
        "tfpipe turns labelled images into a served classifier.",
        "",
        "    tfpipe COMMAND [--flag=value ...]",
        "    tfpipe COMMAND --help",
    ]
    for heading, group in COMMANDS.items():
        lines += ["", f"{heading}:"]
        lines += [f"  {name:<14}{_summary(module)}" for name, module in group.items()]
    return "\n".join(
        [
            *lines,
            "",
            "The shell:",
            f"  {_COMPLETION:<14}Complete commands and flags: source <(tfpipe completion bash).",
            f"  {'--version':<14}Print the versions of tfpipe, TensorFlow and Python.",
            "",
            f"tfpipe train --recipe=list lists {len(RECIPES)} recipes; --helpfull lists all flags.",
        ]
    )


def version() -> str:
    """Return the versions that a report of a fault needs."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("tfpipe", "tensorflow")]
    return ", ".join([*found, f"Python {platform.python_version()}"])


def _summary(module: str) -> str:
    """Return the first line of a module's docstring, without importing it."""
    source = pathlib.Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def _unknown(name: str) -> str:
    if name == _COMPLETION:
        return f"tfpipe completion: name the shell, one of {', '.join(completion.SHELLS)}"
    near = difflib.get_close_matches(name, MODULES, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"tfpipe has no command {name!r}: {hint}tfpipe --help lists them"
