"""Run a command: flags in, exit status out, and no traceback for a user's mistake."""

import errno
import inspect
import io
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

_FULL_HELP = "--helpfull"
_HELP_FLAGS = {"--help", "-help", "-h", _FULL_HELP, "--helpshort"}

# Of files and of standard output, whose errors name no file.
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_RECIPE_FLAG = """\
Recipes:
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

    Besides the flags of `cls`, a command takes `--flagfile=PATH` (later values win), `--verbosity`,
    `--help` (the common flags) and `--helpfull` (all). The exit status is what `main` returns, 0
    for None, 1 for a UserError or a failing file, 2 for wrong flags, 130 when interrupted. The help
    text is the docstring of `main`'s module. If `tuned`, it applies `tfpipe.core.onednn`. If
    `takes_recipes`, `--recipe=NAME` is a flagfile of the package.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a character
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow other arguments
    options.define_flags(cls, values)
    flags.DEFINE_integer("verbosity", -1, _VERBOSITY, flag_values=values)
    try:
        _check_environment()
        if asked := _HELP_FLAGS & set(sys.argv[1:]):
            print(_help(main, cls, takes_recipes, full=_FULL_HELP in asked))
            status = 0
        else:
            argv = recipes.as_flagfiles(sys.argv) if takes_recipes else sys.argv
            parsed = _parse(values, argv, cls)
            terminal.quiet_tensorflow(values["verbosity"].value)
            if tuned:
                onednn.use()
            status = main(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(status)
    except UserError as error:
        terminal.error(as_flags(str(error), values))
        sys.exit(error.status)
    except KeyboardInterrupt:
        terminal.error("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _drop_output()  # its reader ended, as `head` does
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:
            terminal.error(f"{os.fsdecode(error.filename)}: {error.strerror}")
        elif error.errno in _CANNOT_WRITE:
            terminal.error(f"cannot write the output: {error.strerror}")
            _drop_output()
        else:
            raise
        sys.exit(1)
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        text = error.object[max(0, error.start - 60) : error.end + 20]
        terminal.error(f"{text}: a path or name is not UTF-8: rename it")
        sys.exit(1)


def _check_environment() -> None:
    """Raise UserError for what no command can start with."""
    if sys.flags.optimize > 1:
        raise UserError(
            "PYTHONOPTIMIZE=2 (python -OO) removes docstrings, which tf_keras cannot start without:"
            " unset it, or give 1"
        )
    try:
        os.getcwd().encode("utf-8")
    except FileNotFoundError:
        raise UserError("the working folder does not exist any more: change to another") from None
    except UnicodeEncodeError:
        raise UserError(
            f"the working folder {os.getcwd()} is not UTF-8, which TensorFlow needs: rename it, or"
            " change to another"
        ) from None


def _drop_output() -> None:
    """Drop what standard output still holds: Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _help(main: Callable, cls: type, takes_recipes: bool, *, full: bool) -> str:
    doc = inspect.cleandoc(sys.modules[main.__module__].__doc__ or "")
    recipe = f"{_RECIPE_FLAG}\n\n" if takes_recipes else ""
    described = options.describe_flags(cls, full=full)
    return f"{doc}\n\n{described}\n\n{recipe}Every command:\n{_COMMON_FLAGS}"
