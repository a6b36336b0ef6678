"""The commands of this project and their flags, as the commands themselves define them.

A command is a module that can be run. It is started up to where it would read its command line,
and its flags are taken there; so nothing of it is done, and TensorFlow is not imported.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import io
import pathlib
import runpy
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn
from unittest import mock

from absl import flags as absl_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("tfpipe", "serving", "tools", "tools/bench")

# What absl understands on every command line, and what each command does itself.
COMMON = ("flagfile", "help", "verbosity")


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag, or one argument without a name in front.

    Attributes:
        name: without the dashes.
        kind: of its value, as "int"; empty for one that takes none.
        default: as it is written; None for one that must be given.
        help: a sentence without a full stop.
        choices: the allowed values; empty for any.
        repeats: whether it takes several values.
        parse: from a text to its value; raises ValueError or ArgumentTypeError.
    """

    name: str
    kind: str
    default: str | None
    help: str
    choices: tuple[str, ...]
    repeats: bool
    parse: Callable[[str], Any]

    def accepts(self, text: str) -> bool:
        """Returns whether `text` may be its value."""
        try:
            value = self.parse(text)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            return False
        return not self.choices or str(value) in self.choices


@dataclasses.dataclass(frozen=True)
class Command:
    """A module that can be run.

    Attributes:
        module: its dotted name, as "tfpipe.train".
        doc: its docstring.
        flags: by name, in their order.
        arguments: without a name in front, in their order.
    """

    module: str
    doc: str
    flags: dict[str, Flag]
    arguments: tuple[Flag, ...]

    @property
    def text(self) -> str:
        """What a user types to run it."""
        folder, _, name = self.module.rpartition(".")
        return f"python tools/{name}.py" if folder == "tools" else f"python -m {self.module}"

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, which may have several lines."""
        return " ".join(self.doc.split("\n\n")[0].split())


class _Reached(Exception):  # noqa: N818 (not an error: it ends the start of a command)
    """Carries what a command would read its command line with."""

    def __init__(self, parser: argparse.ArgumentParser | absl_flags.FlagValues):
        super().__init__()
        self.parser = parser


def modules() -> list[str]:
    """Returns the dotted names of all modules that can be run, sorted within each folder."""
    return [
        f"{folder.replace('/', '.')}.{path.stem}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).glob("*.py"))
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    ]


def read(module: str) -> Command:
    """Reads the flags of one of `modules()`; raises RuntimeError if it reads no command line."""
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    parser = _parser(module)
    if isinstance(parser, absl_flags.FlagValues):
        found = [_of_absl(parser[name]) for name in parser]
        arguments = _arguments(module)
    else:
        found = [_of_argparse(each) for each in parser._actions if each.option_strings]
        arguments = [_of_argparse(each) for each in parser._actions if not each.option_strings]
    named = {flag.name: flag for flag in found if flag.name not in COMMON}
    return Command(module, doc, named, tuple(arguments))


def _parser(module: str) -> argparse.ArgumentParser | absl_flags.FlagValues:
    def stop(parser: Any, *_: Any) -> NoReturn:
        raise _Reached(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(absl_flags.FlagValues, "__call__", stop),
        mock.patch.object(sys, "argv", [module]),
        # A command sets up the standard streams of its process.
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
        contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO())),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the module may have been imported already
        try:
            runpy.run_module(module, run_name="__main__")
        except _Reached as reached:
            return reached.parser
    raise RuntimeError(f"{module} ended before it read its command line")


def _arguments(module: str) -> list[Flag]:
    """Return what a command takes besides flags, from its dataclass `Options`."""
    options = getattr(importlib.import_module(module), "Options", None)
    found = [field.metadata for field in dataclasses.fields(options)] if options else []
    return [
        Flag(each["arguments"], "text", None, each["help"], (), True, str)
        for each in found
        if "arguments" in each
    ]


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
    # What absl has put before and after what was written.
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
