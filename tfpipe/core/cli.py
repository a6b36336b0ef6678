"""Run a command: flags in, exit status out, and no traceback for a user's mistake."""

import inspect
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from tfpipe.core import onednn, options, recipes, terminal
from tfpipe.core.errors import UserError, as_flags

_VERBOSITY = "TensorFlow's own log: -1 none of it, 0 warnings, 1 all"
_COMMON_FLAGS = f"""\
  --flagfile=PATH
      read flags from a file, one a line; give it first, as the later of two values wins
  --verbosity=-1
      {_VERBOSITY}"""

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_RECIPE_FLAG = """\
  --recipe=NAME
      a flagfile that comes with tfpipe, in place of --flagfile; list shows them"""


def run(
    main: Callable[[Any], int | None],
    cls: type,
    *,
    tuned: bool = True,
    takes_recipes: bool = False,
) -> None:
    """Parse the command line into the dataclass `cls`, call `main` with it, and exit.

    Besides the flags of `cls`, a command takes `--flagfile=PATH` (later values win), `--verbosity`
    and `--help`. The exit status is what `main` returns, 0 for None, 1 for a UserError, 2 for wrong
    flags, 130 when interrupted. The help text is the docstring of `main`'s module. If `tuned`, it
    applies `tfpipe.core.onednn`. If `takes_recipes`, `--recipe=NAME` is a flagfile
    of the package.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow other arguments
    options.define_flags(cls, values)
    flags.DEFINE_integer("verbosity", -1, _VERBOSITY, flag_values=values)
    if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
        print(_help(main, cls, takes_recipes))
        sys.exit(0)
    try:
        argv = recipes.as_flagfiles(sys.argv) if takes_recipes else sys.argv
        parsed = _parse(values, argv, cls)
        terminal.quiet_tensorflow(values["verbosity"].value)
        if tuned:
            onednn.use()
        sys.exit(main(parsed))
    except UserError as error:
        terminal.error(as_flags(str(error), values))
        sys.exit(error.status)
    except KeyboardInterrupt:
        terminal.error("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our standard output ended, as `head` does. Without this, Python complains
        # again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _parse(values: flags.FlagValues, argv: list[str], cls: type) -> Any:
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        where = _where(argv, error)
        raise UserError(f"{where}{error} (--help lists the flags)", status=2) from None
    named = {arg.lstrip("-").split("=")[0] for arg in argv[1:] if arg.startswith("-")}
    for old, new in options.aliases(cls).items():
        if old in named:
            terminal.warn(f"--{old} is now --{new}; the next version will not know the old name")
    return options.from_flags(cls, values, rest)


def _where(argv: list[str], error: flags.Error) -> str:
    """Name the flagfile and line of an unknown flag; absl does not."""
    name = getattr(error, "flagname", None)
    if name is None or any(arg.lstrip("-").split("=")[0] == name for arg in argv[1:]):
        return ""
    for arg in argv[1:]:
        if not arg.lstrip("-").startswith("flagfile="):
            continue
        path = pathlib.Path(arg.split("=", 1)[1]).expanduser()
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            if line.strip().lstrip("-").split("=")[0] == name:
                return f"{path}, line {number}: "
    return ""


def _help(main: Callable, cls: type, takes_recipes: bool) -> str:
    doc = inspect.cleandoc(sys.modules[main.__module__].__doc__ or "")
    recipe = f"\n{_RECIPE_FLAG}" if takes_recipes else ""
    return f"{doc}\n\nFlags:\n{options.describe_flags(cls)}\n{_COMMON_FLAGS}{recipe}"
