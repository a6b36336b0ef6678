"""A validator of just those words of JSON Schema that the shipped schemas use."""

import re

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
TYPES |= {"boolean": bool, "null": type(None)}
CHECKED = set(
    "type required properties additionalProperties items pattern minimum maximum const $ref"
    " minItems maxItems uniqueItems minProperties minLength".split()
)
ANNOTATIONS = {"$schema", "title", "description", "$defs"}


def is_a(value, kind):
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def violations(value, schema, root=None, where="it"):
    """Yields what in `value` is against `schema`; `root` has its $defs."""
    root = schema if root is None else root
    if "$ref" in schema:
        yield from violations(value, root["$defs"][schema["$ref"].split("/")[-1]], root, where)
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(is_a(value, kind) for kind in kinds):
        yield f"{where} is no {' or '.join(kinds)}"
        return
    if value != schema.get("const", value):
        yield f"{where} is {value}"
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        yield from (f"{where} lacks {k}" for k in schema.get("required", ()) if k not in value)
        if len(value) < schema.get("minProperties", 0):
            yield f"{where} is empty"
        for key, item in value.items():
            if key not in properties and others is False:
                yield f"{where} has {key}"
            else:
                yield from violations(item, properties.get(key, others), root, f"{where}.{key}")
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{where} has {len(value)} items"
        if schema.get("uniqueItems") and len(set(value)) < len(value):
            yield f"{where} has an item twice"
        for item in value:
            yield from violations(item, schema.get("items", {}), root, f"{where}[]")
    elif isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            yield f"{where} is {value!r}"
        if len(value) < schema.get("minLength", 0):
            yield f"{where} is empty"
    elif value is not None and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
    ):
        yield f"{where} is {value}"


def words(schema):
    """Yields every word that a schema uses."""
    yield from schema
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    inner += [v for k in ("items", "additionalProperties") if isinstance(v := schema.get(k), dict)]
    for each in inner:
        yield from words(each)
