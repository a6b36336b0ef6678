"""A command's options: one frozen dataclass gives its flags, help text and JSON."""

import dataclasses
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

from tfpipe.core import terminal
from tfpipe.core.errors import UserError

T = TypeVar("T")

_REQUIRED = "<required>"

# A home folder at the start of a path: first in a value, or after , = or : as in name=~/a,~/b.
_HOME = re.compile(r"(?:^|(?<=[,=:]))~(?:[\w.-]*(?=/)|(?=,|$))")


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    choices: tuple[str, ...] = (),
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    alias: str = "",
    words: tuple[str, ...] = (),
    group: str = "",
    common: bool = False,
) -> Any:
    """Declare a dataclass field that is also a flag of the same name.

    Args:
        help: what the flag does, its units and range; without a full stop.
        default: its value when not given; without one the flag is required.
        choices: the allowed values of a string flag; empty for any.
        minimum: least value of a number.
        maximum: largest value of a number.
        alias: an older name of the flag, which is still accepted.
        words: texts that a field of type `float | str` takes in place of a number.
        group: heading in the help, of this flag and of those after it up to the next heading.
        common: whether most users need the flag; `--help` describes these, and lists the others.
    """
    metadata = {"help": help, "choices": choices, "alias": alias, "words": words}
    metadata |= {"group": group, "common": common}
    metadata["bounds"] = {"lower_bound": minimum, "upper_bound": maximum}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def arguments(name: str, help: str, *, required: bool = True) -> Any:
    """Declare a dataclass field for all arguments that are not flags."""
    metadata = {"help": help, "arguments": name, "required": required}
    return dataclasses.field(metadata=metadata)


def _flag_fields(cls: type) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if "arguments" not in field.metadata]


class _FiniteParser(flags.FloatParser):
    """A number or a word, but not nan or inf, which pass through every comparison or become one."""

    def __init__(self, words: tuple[str, ...] = (), **bounds: Any):
        super().__init__(**bounds)
        self._words = words

    def parse(self, argument: str | float) -> float | str:
        return argument if argument in self._words else super().parse(argument)

    def convert(self, argument: str | float) -> float:
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError(f"give a finite number, not {value}")
        return value


def _define_float(name: str, default: float | None, help: str, **more: Any) -> None:
    values = more.pop("flag_values")
    serializer = flags.ArgumentSerializer()
    flags.DEFINE(_FiniteParser(**more), name, default, help, values, serializer)


def define_flags(cls: type, values: flags.FlagValues) -> None:
    """Define one flag in `values` for each field of the dataclass `cls`.

    The field's type chooses the flag's: str, int, float, bool, or tuple[str, ...] for a flag that
    may be given several times. A type such as `float | None` is that of its first part; one of
    `float | str` takes its words too. Numbers are finite.
    """
    for field in _flag_fields(cls):
        default = None if _is_required(field) else field.default
        metadata, text = field.metadata, field.metadata["help"]
        kind = typing.get_args(field.type)[0] if _is_optional(field) else field.type
        if metadata["choices"]:
            flags.DEFINE_enum(field.name, default, metadata["choices"], text, flag_values=values)
        elif isinstance(kind, types.GenericAlias):
            flags.DEFINE_multi_string(field.name, default, text, flag_values=values)
        else:
            define, bounds = {
                str: (flags.DEFINE_string, {}),
                int: (flags.DEFINE_integer, metadata["bounds"]),
                float: (_define_float, metadata["bounds"] | {"words": metadata["words"]}),
                bool: (flags.DEFINE_bool, {}),
            }[kind]
            define(field.name, default, text, flag_values=values, **bounds)
        if metadata["alias"]:
            flags.DEFINE_alias(metadata["alias"], field.name, flag_values=values)


def aliases(cls: type) -> dict[str, str]:
    """Return the new name of each old flag of the dataclass `cls`."""
    fields = _flag_fields(cls)
    return {f.metadata["alias"]: f.name for f in fields if f.metadata.get("alias")}


def from_flags(cls: type[T], values: flags.FlagValues, rest: Sequence[str] = ()) -> T:
    """Build the dataclass `cls` from parsed flags and the other arguments.

    `~/` at the start of a path is the home folder, which a shell leaves as it is in --name=~/path.

    Raises:
        UserError: a required flag or argument is missing, a text is not UTF-8, or `cls` takes no
            arguments.
    """
    given: dict[str, Any] = {}
    if rest and not any("arguments" in field.metadata for field in dataclasses.fields(cls)):
        raise UserError(
            f"unexpected argument {rest[0]!r}: every argument is a flag, --name=value"
            " (--help lists them)",
            status=2,
        )
    for field in dataclasses.fields(cls):
        if name := field.metadata.get("arguments"):
            if not rest and field.metadata["required"]:
                raise UserError(f"{name} is missing: {field.metadata['help']}", status=2)
            given[field.name] = tuple(rest)
            continue
        value = values[field.name].value
        if value is None and _is_required(field):
            raise UserError(f"--{field.name} is missing: {field.metadata['help']}", status=2)
        if isinstance(value, list):
            value = tuple(_text(f"--{field.name}", each) for each in value)
        given[field.name] = _text(f"--{field.name}", value) if isinstance(value, str) else value
    return cls(**given)


def _text(name: str, value: str) -> str:
    """Return a text with the home folder in place of each `~`; raise UserError if not UTF-8."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{name}={value} is not UTF-8, which TensorFlow and JSON need: rename the file or"
            " folder",
            status=2,
        ) from None
    return _HOME.sub(lambda home: os.path.expanduser(home[0]), value)


def describe_flags(cls: type, *, full: bool = True) -> str:
    """Return the flags of the dataclass `cls` as text for `--help`, grouped under headings.

    Args:
        cls: the dataclass.
        full: whether to describe every flag. Otherwise, if some are common, only these and the
            required ones are described, and of the others only the names are listed.
    """
    fields = dataclasses.fields(cls)
    first = [each for each in fields if _is_common(each)]
    has_common = any(each.metadata.get("common") for each in fields)
    groups: dict[str, list[dataclasses.Field]] = {}
    heading = "Further flags" if has_common else "Flags"
    for field in fields:
        heading = field.metadata.get("group") or heading
        if not has_common or field not in first:
            groups.setdefault(heading, []).append(field)
    parts = ["Flags that most users need:", *map(_describe, first), ""] if has_common else []
    if has_common and not full:
        parts.append("Further flags, which --helpfull describes:")
        for name, group in groups.items():
            flags_ = " ".join(f"--{each.name}" for each in group)
            parts.append(_filled(f"{name}: {flags_}", "  ", " " * 6))
    else:
        for name, group in groups.items():
            parts += [f"{name}:", *map(_describe, group), ""]
    return "\n".join(parts).rstrip("\n")


def _is_common(field: dataclasses.Field) -> bool:
    return field.metadata.get("common") or "arguments" in field.metadata or _is_required(field)


def _describe(field: dataclasses.Field) -> str:
    """Return a flag and its help text."""
    text = field.metadata["help"]
    if name := field.metadata.get("arguments"):
        head = f"{name} ..."
    else:
        default = _REQUIRED if _is_required(field) else _spell(field.default)
        head = f"--{field.name}={default}"
        choices, alias = field.metadata["choices"], field.metadata["alias"]
        text += f" (one of {', '.join(choices)})" if choices else ""
        text += f" (before: --{alias})" if alias else ""
        text += " (may be repeated)" if isinstance(field.type, types.GenericAlias) else ""
    return f"  {head}\n{_filled(text, ' ' * 6, ' ' * 6)}"


def _filled(text: str, first: str, others: str) -> str:
    return textwrap.fill(
        text,
        width=96,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def to_json(value: Any) -> dict[str, Any]:
    """Return the dataclass instance `value` as plain JSON types."""
    return dataclasses.asdict(value)


def from_json(
    cls: type[T], value: dict[str, Any], *, where: str, ignore_unknown: bool = False
) -> T:
    """Build the dataclass `cls` from the JSON of `to_json`, perhaps of an older version.

    A key may have the older name of its option. Missing ones get their defaults.

    Args:
        cls: the dataclass.
        value: the JSON.
        where: the file, for messages.
        ignore_unknown: whether to leave out unknown options, with a warning.

    Raises:
        UserError: a key is unknown, or missing and without a default.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = aliases(cls)
    value = {names.get(key, key): each for key, each in value.items()}
    unknown = sorted(set(value) - set(fields))
    if unknown and ignore_unknown:
        said = ", ".join(f"{name}={value.pop(name)}" for name in unknown)
        terminal.warn(f"{where}: this version has no option {said}: it is ignored")
        unknown = []
    missing = sorted(name for name, f in fields.items() if _is_required(f) and name not in value)
    if unknown or missing:
        parts = [f"unknown option {name!r}" for name in unknown]
        parts += [f"missing option {name!r}" for name in missing]
        raise UserError(
            f"{where}: {', '.join(parts)}: it is damaged, or another version of tfpipe wrote it and"
            " can read it"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _is_optional(field: dataclasses.Field) -> bool:
    return isinstance(field.type, types.UnionType)


def _spell(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default)
