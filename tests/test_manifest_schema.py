"""`manifest.schema.json` accepts what build_records writes, and no wrong type or missing key."""

import json
import pathlib

from json_schema import ANNOTATIONS, CHECKED, violations, words

from tfpipe.records import manifest

PATH = pathlib.Path(manifest.__file__).with_name("manifest.schema.json")
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))


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
        if not path or path[0] == "shards":  # other keys are optional or the user's
            changes.append(lambda inner, key: inner.pop(key))
        for change in changes:
            value = json.loads(text)
            inner = value
            for step in path:
                inner = inner[step]
            change(inner, key)
            assert list(violations(value, SCHEMA)), (path, key)


def test_the_schema_uses_only_words_that_are_checked():
    assert set(words(SCHEMA)) <= CHECKED | ANNOTATIONS
