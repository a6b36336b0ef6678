"""Reads the JSON of a classify or regress request: a list of examples, and what they share."""

from collections.abc import Mapping
from typing import Any

from serving import json_api, json_values
from tfpipe.protocol import messages
from tfpipe.protocol.errors import invalid


def read_examples(body: Mapping[str, Any], into: messages.Input) -> None:
    """Read the examples of a classify or regress request; raises RequestError."""
    has_context = "context" in body
    if has_context:
        _fill_example(body["context"], into.example_list_with_context.context)
    if "examples" not in body:
        raise json_api.unexpected(
            body, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = body["examples"]
    if not isinstance(examples, list):
        raise json_api.unexpected(body, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise json_api.unexpected(body, "'examples' value is an empty array")
    found = into.example_list_with_context if has_context else into.example_list
    for each in examples:
        _fill_example(each, found.examples.add())


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_api.type_name(value)}")
    for key, content in value.items():
        name = json_api.plain_text(key)
        feature = example.features.feature[name]
        for each in content if isinstance(content, list) else [content]:
            _add_value(each, name, feature)


def _add_value(value: Any, name: str, feature: Any) -> None:
    match value:
        case bool():
            kind, found = "int64_list", int(value)
        case int() if -(2**63) <= value < 2**64:
            kind, found = "int64_list", value
        case int() | float():  # an integer of more than 64 bits too
            kind, found = "float_list", json_values.real(value)
        case str():
            kind, found = "bytes_list", value.encode(errors=json_api.RAW)
        case dict() if json_values.is_base64(value):
            kind, found = "bytes_list", value
        case _:
            raise invalid(
                f"Feature: {name} has element with unexpected JSON type:"
                f" {json_api.type_name(value)}"
            )
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type:"
            f" {before.removesuffix('_list')}"
        )
    if kind == "int64_list" and found >= 2**63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    found = json_values.decode_base64(found) if isinstance(found, dict) else found
    getattr(feature, kind).value.append(found)
