"""A command's options: one frozen dataclass gives its flags, help text and JSON."""

import dataclasses
import textwrap
import types
from typing import Any, TypeVar

from absl import flags

from tfpipe.core.errors import UserError

T = TypeVar("T")

_REQUIRED = "<required>"


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    choices: tuple[str, ...] = (),
    old_name: str = "",
) -> Any:
    """Declare a dataclass field that is also a flag of the same name.

    Args:
        help: what the flag does, its units and range; without a full stop.
        default: its value when not given; without one the flag is required.
        choices: the allowed values of a string flag; empty for any.
        old_name: a former name of the flag, which still works in this version.
    """
    if old_name:
        help = f"{help}; --{old_name} is its old name and works until the next version"
    metadata = {"help": help, "choices": choices, "old_name": old_name}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def define_flags(cls: type, values: flags.FlagValues) -> None:
    """Define one flag in `values` for each field of the dataclass `cls`.

    The field's type is the flag's: str, int, float, bool, or tuple[str, ...] for a repeated flag.
    """
    for field in dataclasses.fields(cls):
        default = None if _is_required(field) else field.default
        help_text = field.metadata["help"]
        if field.metadata["choices"]:
            flags.DEFINE_enum(
                field.name, default, field.metadata["choices"], help_text, flag_values=values
            )
        elif isinstance(field.type, types.GenericAlias):
            flags.DEFINE_multi_string(field.name, default, help_text, flag_values=values)
        else:
            define = {
                str: flags.DEFINE_string,
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
                bool: flags.DEFINE_bool,
            }[field.type]
            define(field.name, default, help_text, flag_values=values)
        if field.metadata["old_name"]:
            flags.DEFINE_alias(field.metadata["old_name"], field.name, flag_values=values)


def from_flags(cls: type[T], values: flags.FlagValues) -> T:
    """Build the dataclass `cls` from parsed flags; raise UserError if a required one is missing."""
    given = {}
    for field in dataclasses.fields(cls):
        value = values[field.name].value
        if value is None and _is_required(field):
            raise UserError(f"--{field.name} is missing: {field.metadata['help']}", status=2)
        given[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**given)


def describe_flags(cls: type) -> str:
    """Return the flags of the dataclass `cls` as text for `--help`, one paragraph each."""
    paragraphs = []
    for field in dataclasses.fields(cls):
        default = _REQUIRED if _is_required(field) else _spell(field.default)
        head = f"  --{field.name}={default}"
        choices = field.metadata["choices"]
        allowed = f" (one of {', '.join(choices)})" if choices else ""
        repeats = " (may be repeated)" if isinstance(field.type, types.GenericAlias) else ""
        body = textwrap.fill(
            field.metadata["help"] + allowed + repeats,
            width=96,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
        paragraphs.append(f"{head}\n{body}")
    return "\n".join(paragraphs)


def to_json(value: Any) -> dict[str, Any]:
    """Return the dataclass instance `value` as plain JSON types."""
    return dataclasses.asdict(value)


def from_json(cls: type[T], value: dict[str, Any], *, where: str) -> T:
    """Build the dataclass `cls` from the JSON of `to_json`.

    Raises:
        UserError: a key is unknown or missing; `where` names the file in the message.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    missing = sorted(name for name, f in fields.items() if _is_required(f) and name not in value)
    if unknown or missing:
        parts = [f"unknown option {name!r}" for name in unknown]
        parts += [f"missing option {name!r}" for name in missing]
        raise UserError(
            f"{where}: {', '.join(parts)}: it was written by another version of tfpipe; train anew"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _spell(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default)
