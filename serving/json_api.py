"""Reads the JSON of a request as TensorFlow Serving's parser does, with the same error texts.

That parser is RapidJSON 1.1.0 with NaN and Infinity. It ends after the first value, whatever
follows, and passes bytes on that are not UTF-8. Here two things are refused that it reads in its
own way: a key twice in one object, and half of a surrogate pair.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from tfpipe.protocol.errors import RequestError, invalid

# How strings of a request become bytes: those that were not UTF-8 come back as they were.
RAW = "surrogateescape"

_INDENT = "    "
_SHOWN_CHARS = 256  # TensorFlow Serving shows so much of a value, and finishes the token
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")
_BAD_NUMBER = {".": "Miss fraction part in number.", "e": "Miss exponent in number."}
_BAD_NUMBER_PART = re.compile(r"(?<=\d)(?:(\.)|(e)[+-]?)(?!\d)", re.IGNORECASE)
# What RapidJSON reads of a word or number before it refuses it.
_BEGUN = re.compile("tr?u?|fa?l?s?|nu?l?|-?(?:Na?|In?f?i?n?i?t?)?")

# The escapes of a string; a group that matches is half of a surrogate pair.
_ESCAPE = re.compile(rb"(?i)\\(?:ud[89ab]..\\ud[c-f]..|(ud[89a-f]..)|.)", re.DOTALL)
# Brackets, and names of RapidJSON that Python does not know; a quotation mark begins a string.
_TOKEN = re.compile(r'["{}]|[][]|-?Inf(?!inity)|-NaN')


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object at the start of `body`; raises RequestError."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    text = body.removeprefix(_BOM).decode(errors=RAW)
    skipped = len(_BOM) if body.startswith(_BOM) else 0
    try:
        found = _decoded(text)
    except json.JSONDecodeError as error:
        what, place = _explained(error)
        _refuse(what, skipped + len(text[:place].encode(errors=RAW)))
    except RecursionError:
        raise invalid("JSON Parse error: lists or objects are nested too deeply") from None
    except ValueError:  # an integer of thousands of digits, or 1e999
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None
    if b"\\ud" in body or b"\\uD" in body:
        for match in _ESCAPE.finditer(body):
            if match[1]:
                _refuse("The surrogate pair in string is invalid.", match.start())
    if not isinstance(found, dict):
        raise unexpected(found, "Is not object")
    return found


def shown(value: Any) -> str:
    """Return JSON for an error message, cut after some `_SHOWN_CHARS` characters."""
    text = ""
    for token in _tokens(value, 0):
        if len(text) >= _SHOWN_CHARS:
            break
        text += token
    return text


def unexpected(value: Any, what: str) -> RequestError:
    """Return the error for a value that is not what it must be."""
    return invalid(f"JSON Value: {shown(value)} {what}")


def type_name(value: Any) -> str:
    """Return the name of a value's type in error messages."""
    if isinstance(value, bool):
        return str(value)
    names = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
    return names.get(type(value), "Number")


def plain_text(text: str) -> str:
    """Return a string of a request as a message can hold it; what is no UTF-8 is replaced."""
    return text.encode(errors=RAW).decode(errors="replace")


def _refuse(what: str, place: int) -> NoReturn:
    raise invalid(f"JSON Parse error: {what} at offset: {place}") from None


def _decoded(text: str) -> Any:
    start = _SPACE.match(text).end()
    try:
        return _DECODER.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        if "Inf" in text or "-NaN" in text:
            with contextlib.suppress(json.JSONDecodeError):
                return _DECODER.raw_decode(_spelled_out(text), start)[0]
        raise error from None


def _outside_strings(text: str) -> Iterator[re.Match]:
    """Yield the tokens of JSON text that are not part of a string."""
    place = 0
    while match := _TOKEN.search(text, place):
        place = match.end()
        if match[0] == '"':
            place = _string_end(text, place)
        else:
            yield match


def _string_end(text: str, place: int) -> int:
    """Return where the string ends whose first character is at `place`."""
    while (quote := text.find('"', place)) >= 0:
        before = text[place:quote]
        place = quote + 1
        if (len(before) - len(before.rstrip("\\"))) % 2 == 0:
            return place
    return len(text)


def _spelled_out(text: str) -> str:
    """Return JSON text with Infinity for Inf and NaN for -NaN."""
    parts, end = [], 0
    for match in _outside_strings(text):
        if match[0][-1] in "fN":
            parts += (
                text[end : match.start()],
                match[0].replace("Inf", "Infinity").replace("-N", "N"),
            )
            end = match.end()
    return "".join([*parts, text[end:]])


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        once: set[str] = set()
        twice = next(key for key, _ in pairs if key in once or once.add(key))
        raise invalid(f'JSON Parse error: the key "{plain_text(twice)}" is twice in one object')
    return found


def _finite(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError("too big")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite)


def _explained(error: json.JSONDecodeError) -> tuple[str, int]:
    """Return the text of RapidJSON for an error of Python, and its place."""
    text, place = error.doc, error.pos
    match error.msg.split():
        case ["Expecting", "value", *_]:
            is_first = place == _SPACE.match(text).end()
            if is_first and text[place : place + 1] in ("", "\0", *"]},:"):
                return "The document is empty.", place
            return "Invalid value.", _BEGUN.match(text, place).end()
        case ["Expecting", "property", *_]:
            return "Missing a name for object member.", place
        case ["Expecting", "':'", *_]:
            return "Missing a colon after a name of object member.", place
        case ["Expecting", *_]:  # a comma
            if part := _BAD_NUMBER_PART.match(text, place):
                return _BAD_NUMBER[(part[1] or part[2]).lower()], part.end()
            if _is_object(text[:place]):
                return "Missing a comma or '}' after an object member.", place
            return "Missing a comma or ']' after an array element.", place
        case ["Illegal", "trailing", *_, what]:  # since Python 3.13
            place = _SPACE.match(text, place + 1).end()
            return (
                "Missing a name for object member." if what == "object" else "Invalid value.",
                place,
            )
        case ["Unterminated", *_]:
            return "Missing a closing quotation mark in string.", len(text)
        case [_, "control", *_] if text[place] == "\0":
            return "Missing a closing quotation mark in string.", place
        case [_, "\\uXXXX", *_]:
            return "Incorrect hex digit after \\u escape in string.", text.rfind("\\", 0, place + 1)
        case _:
            return "Invalid escape character in string.", place


def _is_object(text: str) -> bool:
    """Return whether the innermost open bracket of a correct beginning is that of an object."""
    open_brackets: list[str] = []
    for match in _outside_strings(text):
        if match[0] in "{[":
            open_brackets.append(match[0])
        elif match[0] in "}]":
            open_brackets.pop()
    return open_brackets[-1] == "{"


def _tokens(value: Any, depth: int) -> Iterator[str]:
    """Yield the JSON of a value: objects over several lines, lists in one."""
    if isinstance(value, dict) and value:
        yield "{"
        for place, (key, each) in enumerate(value.items()):
            start = ",\n" if place else "\n"
            yield f"{start}{_INDENT * (depth + 1)}{_dumped(key)}"
            yield ": "
            yield from _tokens(each, depth + 1)
        yield f"\n{_INDENT * depth}}}"
    elif isinstance(value, list):
        yield "["
        for place, each in enumerate(value):
            if place:
                yield ", "
            yield from _tokens(each, depth + 1)
        yield "]"
    else:
        yield _dumped(value)


def _dumped(value: Any) -> str:
    return json.dumps(plain_text(value) if isinstance(value, str) else value, ensure_ascii=False)
