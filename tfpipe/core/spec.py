"""Spec strings such as "rotate(20)|maybe(0.5,blur)": parsed literally, never evaluated.

Grammar: a chain is calls joined by `|`; a call is a name with, in parentheses, numbers, words,
chains, or KEY=NUMBER; `name` alone is `name()`. A word after a KEY=NUMBER is KEY=1, as in
`sgd(momentum=0.9,nesterov)`.
"""

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry

MAX_LENGTH = 2000  # characters; keeps the parser's recursion bounded

# Python wants a value after a keyword to have a keyword too.
_WORD_AFTER_KEY = re.compile(r"(=[^=(),|]*,\s*[A-Za-z_]\w*\s*)(?=[,)])")


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a chain.

    An argument is a number or, for a nested chain, a tuple of calls; `named` has those of a key.
    """

    name: str
    args: tuple["float | tuple[Call, ...]", ...] = ()
    named: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        args = [f"{a:g}" if isinstance(a, float) else "|".join(map(str, a)) for a in self.args]
        args += [f"{key}={value:g}" for key, value in self.named]
        return f"{self.name}({','.join(args)})" if args else self.name


def parse(text: str, *, option: str) -> tuple[Call, ...]:
    """Parse a spec string into its chain of calls; blank means an empty chain.

    Raises:
        UserError: the text, the value of `option`, does not follow the grammar.
    """
    return _read(text, option, _chain, "calls joined by '|', as in 'name(1,2)|name'")


def parse_list(text: str, *, option: str) -> tuple[tuple[Call, ...], ...]:
    """Parse chains separated by commas; blank means none. Arguments and errors as for `parse`."""
    return _read(text, option, _chains, "calls separated by commas, as in 'name(1,2),name'")


def split(text: str, separator: str) -> list[str]:
    """Split a text at a separator of one character, but not within parentheses, however deep."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == separator and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _read(
    text: str,
    option: str,
    reader: Callable[[ast.expr], tuple],
    allowed: str,
    *,
    named: bool = False,
) -> tuple:
    if not text.strip():
        return ()
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"longer than {MAX_LENGTH} characters")
        python, count = text.strip(), 1
        while count:
            python, count = _WORD_AFTER_KEY.subn(r"\1=1", python)
        body = ast.parse(python, mode="eval").body
        for node in ast.walk(body):
            if isinstance(node, ast.Call) and node.keywords and not named:
                raise ValueError(f"cannot read {ast.unparse(node)!r}")
        return reader(body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"`{option}={text}` is not a spec ({reason}); write {allowed}") from None


def _chains(node: ast.expr) -> tuple[tuple[Call, ...], ...]:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return tuple(_chain(part) for part in parts)


def parse_one(text: str, registry: Registry, *, option: str) -> Call:
    """Parse a spec string that is one call of a registry; raise UserError for another form."""
    allowed = "one call, as in 'name(1,2)' or 'name(key=1)'"
    chain = _read(text, option, _chain, allowed, named=True)
    if len(chain) != 1:
        raise UserError(
            f"`{option}={text}` is not one {registry.kind}; known: {', '.join(registry)}"
        )
    return chain[0]


def make(text: str, registry: Registry, *first: Any, option: str) -> Any:
    """Return the result of the registry's function that a spec names.

    Args:
        text: one call, with the numbers that the function takes.
        registry: of functions; see `check`.
        first: arguments before the numbers.
        option: the option it came from, for the message.

    Raises:
        UserError: the text is not such a call, its name is unknown, or its numbers are wrong.
    """
    call = parse_one(text, registry, option=option)
    function = registry[call.name]
    check(call, function, *first, option=option)
    return function(*first, *call.args, **dict(call.named))


def check(
    call: Call, function: Callable, *first: Any, option: str, numbers_only: bool = True
) -> None:
    """Raise UserError unless a function takes the values of a call, which are finite numbers.

    Args:
        call: of a spec.
        function: its docstring begins with an example, as "`crop(0.9)`: the central window".
        first: arguments before the values.
        option: the option it came from, for the message.
        numbers_only: whether a chain is no value.
    """
    try:
        inspect.signature(function).bind(*first, *call.args, **dict(call.named))
    except TypeError:
        usage = inspect.getdoc(function).splitlines()[0]
        wrong = "wrong number or names of values" if call.named else "wrong number of values"
        raise UserError(f"`{option}`: {call}: {wrong}; {usage}") from None
    values = [*call.args, *dict(call.named).values()]
    finite = (isinstance(value, float) and math.isfinite(value) for value in values)
    if numbers_only and not all(finite):
        raise UserError(f"`{option}`: {call}: {call.name} takes finite numbers only")


def _chain(node: ast.expr) -> tuple[Call, ...]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _chain(node.left) + _chain(node.right)
    if isinstance(node, ast.Name):
        return (Call(node.id),)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        named = tuple((each.arg, _number(each.value)) for each in node.keywords)
        if len(dict(named)) < len(named):
            raise ValueError(f"{ast.unparse(node)!r} names a value twice")
        return (Call(node.func.id, tuple(_argument(arg) for arg in node.args), named),)
    raise ValueError(f"cannot read {ast.unparse(node)!r}")


def _argument(node: ast.expr) -> "float | tuple[Call, ...]":
    if isinstance(node, ast.Constant | ast.UnaryOp):
        return _number(node)
    return _chain(node)


def _number(node: ast.expr) -> float:
    sign, value = 1.0, node
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, value = -1.0, node.operand
    if not isinstance(value, ast.Constant):
        raise ValueError(f"cannot read {ast.unparse(node)!r}")
    if type(value.value) not in (int, float):
        raise ValueError(f"{value.value!r} is not a number")
    if not math.isfinite(value.value):
        raise ValueError("a number is too large")
    return sign * float(value.value)
