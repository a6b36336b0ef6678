"""The recipes: flagfiles that come with the package."""

import difflib
import pathlib
import sys

from tfpipe.core.errors import UserError

_FLAG = "--recipe="
_FOLDER = pathlib.Path(__file__).parent.parent / "recipes"  # a link to configs/ in the repository
RECIPES = {path.stem: path for path in sorted(_FOLDER.glob("*.flags"))}


def path(name: str) -> pathlib.Path:
    """Return the flagfile of a recipe; raise UserError if there is none of this name."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"--recipe={name} is unknown: {hint}--recipe=list lists the recipes", status=2
        )
    return RECIPES[name]


def describe() -> str:
    """Return a line for each recipe: its name and what it is."""
    width = max(map(len, RECIPES))
    return "\n".join(
        f"{name:<{width}}  {file.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}"
        for name, file in RECIPES.items()
    )


def as_flagfiles(argv: list[str]) -> list[str]:
    """Return arguments with `--flagfile=PATH` in place of `--recipe=NAME` or `--recipe NAME`.

    `--recipe=list` prints the recipes and ends the process.
    """
    flag = _FLAG.rstrip("=")
    for place in reversed([i for i, arg in enumerate(argv[:-1]) if arg == flag]):
        argv = [*argv[:place], _FLAG + argv[place + 1], *argv[place + 2 :]]
    if f"{_FLAG}list" in argv:
        print(describe())
        sys.exit(0)
    return [
        f"--flagfile={path(arg.removeprefix(_FLAG))}" if arg.startswith(_FLAG) else arg
        for arg in argv
    ]
