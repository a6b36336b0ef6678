"""Read the flags of this project's commands from the commands themselves.

Each command, a module that can be run, is started and stopped where it would read its command line.
So it does no work and does not import TensorFlow.
"""

import argparse
import ast
import contextlib
import dataclasses
import io
import pathlib
import runpy
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn
from unittest import mock

from absl import flags as absl_flags

from tfpipe.core import cli, options

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("tfpipe", "serving", "tools", "tools/bench")

# Flags of every command.
COMMON = ("flagfile", "help", "helpfull", "recipe", "verbosity")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag or a positional argument."""

    name: str  # without the dashes
    kind: str  # the type of its value, such as "int"; empty if it takes none
    default: str | None  # as text; None if the flag is required
    help: str  # without a full stop
    choices: tuple[str, ...]  # empty for any
    repeats: bool  # whether it takes several values
    parse: Callable[[str], Any]  # may raise ValueError, TypeError or ArgumentTypeError

    def accepts(self, text: str) -> bool:
        """Return whether `text` is a valid value."""
        try:
            value = self.parse(text)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            return False
        return not self.choices or str(value) in self.choices


@dataclasses.dataclass(frozen=True)
class Command:
    """A module that can be run, with its flags by name and positional arguments in their order."""

    module: str  # its dotted name, as "tfpipe.train"
    doc: str
    flags: dict[str, Flag]
    arguments: tuple[Flag, ...]

    @property
    def text(self) -> str:
        """The command line that runs it."""
        folder, _, name = self.module.rpartition(".")
        return f"python tools/{name}.py" if folder == "tools" else f"python -m {self.module}"

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, which may have several lines."""
        return " ".join(self.doc.split("\n\n")[0].split())


class _Reached(Exception):  # noqa: N818 (it stops a command on purpose)
    """Says that a command would now read its command line."""


def modules() -> list[str]:
    """Return the dotted names of all modules that can be run, sorted within each folder."""
    return [
        f"{folder.replace('/', '.')}.{path.stem}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).glob("*.py"))
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    ]


def read(module: str) -> Command:
    """Read the flags of one of `modules()`; raise RuntimeError if it reads no command line."""
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    defined = _defined(module)
    if isinstance(defined, type):
        values = absl_flags.FlagValues()
        options.define_flags(defined, values)
        found = [_of_absl(values[name]) for name in values]
        each = [field.metadata for field in dataclasses.fields(defined)]
        arguments = [
            Flag(data["arguments"], "text", None, data["help"], (), True, str)
            for data in each
            if "arguments" in data
        ]
    else:
        found = [_of_argparse(each) for each in defined if each.option_strings]
        arguments = [_of_argparse(each) for each in defined if not each.option_strings]
    named = {flag.name: flag for flag in found if flag.name not in COMMON}
    return Command(module, doc, named, tuple(arguments))


def _defined(module: str) -> list[argparse.Action] | type:
    """Start a command up to where it reads its command line; return its options or arguments."""
    found: list[Any] = []
    add_argument = argparse.ArgumentParser.add_argument

    def record(parser: argparse.ArgumentParser, *names: str, **settings: Any) -> argparse.Action:
        found.append(add_argument(parser, *names, **settings))
        return found[-1]

    def stop(*_: Any) -> NoReturn:
        raise _Reached

    def run(_: Callable, cls: type, **__: Any) -> NoReturn:
        found.append(cls)
        raise _Reached

    with (
        mock.patch.object(argparse.ArgumentParser, "add_argument", record),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(cli, "run", run),
        mock.patch.object(sys, "argv", [module]),
        # A command may replace the standard streams of its process.
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
        contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO())),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # runpy warns if the module is imported already
        try:
            runpy.run_module(module, run_name="__main__")
        except _Reached:
            return found[0] if isinstance(found[0], type) else found
    raise RuntimeError(f"{module} ended before it read its command line")


def _of_absl(flag: absl_flags.Flag) -> Flag:
    default = flag.default
    if isinstance(default, bool):
        text = str(default).lower()
    elif isinstance(default, list):
        text = ",".join(default)
    else:
        text = None if default is None else str(default)
    kind = {"string": "text", "multi string": "text", "string enum": "text"}.get(
        flag.flag_type(), flag.flag_type()
    )
    choices = tuple(getattr(flag.parser, "enum_values", ()))
    repeats = flag.flag_type().startswith("multi")
    # absl adds the choices before the help and a default after it.
    help_text = flag.help.removeprefix(f"<{'|'.join(choices)}>: ").partition(";\n")[0]
    return Flag(flag.name, kind, text, help_text, choices, repeats, flag.parser.parse)


def _of_argparse(action: argparse.Action) -> Flag:
    name = action.option_strings[-1].lstrip("-") if action.option_strings else action.metavar
    kind = getattr(action.type, "__name__", "text") if action.nargs != 0 else ""
    kind = {"parse": "text", "boolean": "bool", "str": "text", "Path": "path"}.get(kind, kind)
    default = None if action.required else str(action.default if action.default is not None else "")
    if action.default in ([], False):
        default = ""
    choices = tuple(map(str, action.choices or ()))
    repeats = action.nargs in ("+", "*")
    return Flag(name, kind, default, action.help or "", choices, repeats, action.type or str)
