"""Completion of commands and flags in a shell: a script for bash, zsh or fish."""

import dataclasses
import importlib
import inspect
import shlex
from collections.abc import Mapping

from tfpipe.core.errors import UserError

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_tfpipe() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" flag words=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {commands} -- "$cur"))
    return
  fi
  if [ "$cur" = "=" ] || [ "$prev" = "=" ]; then
    if [ "$cur" = "=" ]; then flag="$prev" cur=; else flag="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    case "${{COMP_WORDS[1]}} $flag" in
{values}
    esac
    if [ -n "$words" ]; then
      COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else
      compopt -o filenames 2>/dev/null
      COMPREPLY=($(compgen -f -- "$cur"))
    fi
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{flags}
  esac
  case "$cur" in
    -*) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    *) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
  esac
}}
complete -F _tfpipe tfpipe
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def script(shell: str, modules: Mapping[str, str]) -> str:
    """Return the completion script of a shell.

    Args:
        shell: one of `SHELLS`.
        modules: the module of each command.

    Raises:
        UserError: a command's package is not installed.
    """
    fields = {name: _fields(module) for name, module in modules.items()}
    if shell == "fish":
        return _fish(fields)
    flags = [
        f"    {name}) words={shlex.quote(' '.join(f'--{f.name}=' for f in each))} ;;"
        for name, each in fields.items()
    ]
    values = [
        f"      {shlex.quote(f'{name} --{f.name}')}) words={shlex.quote(' '.join(_choices(f)))} ;;"
        for name, each in fields.items()
        for f in each
        if _choices(f)
    ]
    commands = shlex.quote(" ".join(modules))
    bash = _BASH.format(commands=commands, flags="\n".join(flags), values="\n".join(values))
    return _ZSH + bash if shell == "zsh" else bash


def _fish(fields: Mapping[str, list[dataclasses.Field]]) -> str:
    names = " ".join(fields)
    lines = [f"complete -c tfpipe -n __fish_use_subcommand -f -a {shlex.quote(names)}"]
    for name, each in fields.items():
        for f in each:
            line = f"complete -c tfpipe -n '__fish_seen_subcommand_from {name}' -l {f.name} -r"
            help_text = f.metadata["help"].splitlines()[0]
            line += f" -d {shlex.quote(help_text)}"
            if _choices(f):
                line += f" -f -a {shlex.quote(' '.join(_choices(f)))}"
            lines.append(line)
    return "\n".join(lines) + "\n"


def _fields(module: str) -> list[dataclasses.Field]:
    """Return the flags of a command: the fields of what its `main` takes."""
    try:
        main = importlib.import_module(module).main
    except ImportError as error:
        raise UserError(f"{module} needs the package {error.name}: install it") from None
    parameter = next(iter(inspect.signature(main).parameters.values()))
    fields = dataclasses.fields(parameter.annotation)
    return [field for field in fields if "arguments" not in field.metadata]


def _choices(field: dataclasses.Field) -> tuple[str, ...]:
    return ("true", "false") if field.type is bool else field.metadata["choices"]
