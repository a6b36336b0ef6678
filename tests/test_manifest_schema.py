"""`manifest.schema.json` describes what build_records writes, and nothing looser."""

import json
import pathlib
import re

from tfpipe.ingest import manifest

PATH = pathlib.Path(manifest.__file__).with_name("manifest.schema.json")
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))

# What of JSON Schema the shipped schema uses; any other word in it fails `test_words`.
ANNOTATIONS = {"$schema", "title", "description", "$defs"}
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
TYPES["boolean"] = bool


def violations(value, schema, where="manifest"):
    """Yields what in `value` is against `schema`; a validator of just the words used."""
    if "$ref" in schema:
        yield from violations(value, SCHEMA["$defs"][schema["$ref"].split("/")[-1]], where)
    kind = TYPES.get(schema.get("type"), object)
    if not isinstance(value, kind) or (kind not in (object, bool) and isinstance(value, bool)):
        yield f"{where} is no {schema['type']}"
        return
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        yield from (f"{where} lacks {k}" for k in schema.get("required", ()) if k not in value)
        if len(value) < schema.get("minProperties", 0):
            yield f"{where} is empty"
        for key, item in value.items():
            if key not in properties and others is False:
                yield f"{where} has {key}"
            else:
                yield from violations(item, properties.get(key, others), f"{where}.{key}")
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{where} is empty"
        if schema.get("uniqueItems") and len(set(value)) < len(value):
            yield f"{where} has an item twice"
        for item in value:
            yield from violations(item, schema.get("items", {}), f"{where}[]")
    elif isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            yield f"{where} is {value!r}"
        if len(value) < schema.get("minLength", 0):
            yield f"{where} is empty"
    elif value != schema.get("const", value) or ("minimum" in schema and value < schema["minimum"]):
        yield f"{where} is {value}"


def test_what_build_records_writes_is_valid(records):
    value = json.loads((records / "manifest.json").read_text(encoding="utf-8"))
    assert list(violations(value, SCHEMA)) == []
    assert SCHEMA["properties"]["schema_version"]["const"] == manifest.SCHEMA_VERSION
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"]) == set(value)


def test_every_key_is_required_and_has_its_type(records):
    text = (records / "manifest.json").read_text(encoding="utf-8")

    def places(value, path=()):
        if isinstance(value, dict):
            for key in value:
                yield (*path, key)
                yield from places(value[key], (*path, key))
        elif isinstance(value, list) and value:
            yield from places(value[0], (*path, 0))

    all_places = list(places(json.loads(text)))
    assert len(all_places) > 25
    for *path, key in all_places:
        changes = [lambda inner, key: inner.update({key: None})]
        if not path or path[0] == "shards":  # elsewhere keys are the user's, or may be missing
            changes.append(lambda inner, key: inner.pop(key))
        for change in changes:
            value = json.loads(text)
            inner = value
            for step in path:
                inner = inner[step]
            change(inner, key)
            assert list(violations(value, SCHEMA)), (path, key)


def test_the_schema_uses_only_words_that_are_checked():
    def words(schema):
        yield from schema
        inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
        inner += [
            v for k in ("items", "additionalProperties") if isinstance(v := schema.get(k), dict)
        ]
        for each in inner:
            yield from words(each)

    checked = (
        "type required properties additionalProperties items pattern minimum const $ref minItems"
        " uniqueItems minProperties minLength"
    ).split()
    assert set(words(SCHEMA)) <= {*checked, *ANNOTATIONS}
