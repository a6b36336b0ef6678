"""Keywords of Python functions: the options of a command, with the checks of its flags."""

import dataclasses
import difflib
import inspect
import numbers
import os
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from tfpipe.core.errors import UserError, as_keywords

T = TypeVar("T")

_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}


def options(
    cls: type[T],
    function: str,
    keywords: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    **arguments: Any,
) -> T:
    """Build the options dataclass `cls` from the keywords of a call.

    A path or a number is taken where an option is text, because `image_size=224` reads better than
    `image_size="224"`.

    Args:
        cls: the dataclass, of fields from `tfpipe.core.options.option`.
        function: its name, for messages.
        keywords: values by name, as a caller gave them.
        without: options that the function does not have.
        arguments: values of options that have another name or no name in the function.

    Raises:
        UserError: a keyword is unknown, or has a value of a wrong type, range or choice.
    """
    fields = {field.name: field for field in _fields(cls, {*without, *arguments})}
    check_known(keywords, fields, function)
    values = {name: _value(fields[name], value) for name, value in keywords.items()}
    return cls(**arguments, **values)


def check_known(keywords: Iterable[str], known: Iterable[str], function: str) -> None:
    """Raise UserError if a keyword of a function is not known."""
    known = [name for name in known if name != "self"]
    for name in keywords:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean `{near[0]}`?" if near else f"give one of {', '.join(known)}"
            raise UserError(f"{function} has no keyword `{name}`: {hint}", status=2)


def signature(function: Callable, cls: type, without: Collection[str] = ()) -> inspect.Signature:
    """Return the signature of a function whose `**flags` are the options of `cls`."""
    own = inspect.signature(function)
    given = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    for field in _fields(cls, {*without, *own.parameters}):
        default = inspect.Parameter.empty if _is_required(field) else field.default
        kind = inspect.Parameter.KEYWORD_ONLY
        given.append(inspect.Parameter(field.name, kind, default=default, annotation=field.type))
    return own.replace(parameters=given)


def describe(cls: type, without: Collection[str] = ()) -> str:
    """Return the options of `cls` as a section of a docstring."""
    lines = ["Flags:"]
    for field in _fields(cls, without):
        choices = field.metadata.get("choices", ())
        allowed = f" (one of {', '.join(choices)})" if choices else ""
        default = "" if _is_required(field) else f"; default {field.default!r}"
        text = f"{field.name}: {as_keywords(field.metadata['help'])}{allowed}{default}"
        lines += textwrap.wrap(text, 90, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _fields(cls: type, without: Collection[str]) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if field.name not in without]


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _value(field: dataclasses.Field, value: Any) -> Any:
    kind: Any = field.type
    if isinstance(kind, types.UnionType):
        if value is None or (isinstance(value, str) and value in field.metadata.get("words", ())):
            return value
        kind = typing.get_args(kind)[0]
    if isinstance(kind, types.GenericAlias):  # tuple[str, ...]
        many = [value] if isinstance(value, str | os.PathLike) else value
        if not isinstance(many, list | tuple):
            raise _wrong(field, value, "text, or a list of texts")
        return tuple(_converted(field, str, each) for each in many)
    value = _converted(field, kind, value)
    choices = field.metadata.get("choices", ())
    if choices and value not in choices:
        raise _wrong(field, value, f"one of {', '.join(choices)}")
    bounds = field.metadata.get("bounds", {})
    least, most = bounds.get("lower_bound"), bounds.get("upper_bound")
    if least is not None and not value >= least:
        raise _wrong(field, value, f"at least {least:g}")
    if most is not None and not value <= most:
        raise _wrong(field, value, f"at most {most:g}")
    return value


def _converted(field: dataclasses.Field, kind: type, value: Any) -> Any:
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is str and is_number:
        return str(value)
    if kind is int and is_number and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and is_number:
        return float(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    words = map(repr, field.metadata.get("words", ()))
    raise _wrong(field, value, " or ".join([_KINDS[kind], *words]))


def _wrong(field: dataclasses.Field, value: Any, allowed: str) -> UserError:
    return UserError(f"`{field.name}={value}`: give {allowed}", status=2)
