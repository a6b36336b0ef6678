"""Drawn JSON of every kind beside good requests: no good one fails, and each answer is JSON.

JSON_FUZZ=5000 python -m pytest -s --timeout=0 tests/test_serving_json_fuzz.py
"""

import collections
import gzip
import json
import math
import os
import threading

import grpc
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serving_demo import IMAGE, SIGNATURES, TYPES, ask, call, demo, predict, spec

from serving import json_api

EXAMPLES = int(os.environ.get("JSON_FUZZ", "100"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

RAW_TEXT = [r'"\ud800"', r'"\udfff\ud800"', r'"\ud83d\ude00"', r'"\u00"', r'"\x"', '"a', '"\0"']
RAW_NUMBERS = [
    "1e400",
    "-1e-400",
    "9" * 400,
    "9" * 5000,
    "1.",
    "1e",
    "01",
    "-",
    "+1",
    "Inf",
    "-NaN",
]
FIELDS = ["instances", "inputs", "examples", "context", "signature_name", "x", "a", "text", "b64"]


def mostly(good, rare):
    """Draws one of the rare texts once in ten times."""
    return st.integers(0, 9).flatmap(lambda draw: st.sampled_from(rare) if draw == 9 else good)


text = mostly(st.text(max_size=9).map(json.dumps), RAW_TEXT)
numbers = mostly(st.one_of(st.integers(), st.floats()).map(json.dumps), RAW_NUMBERS)
leaves = st.one_of(text, numbers, st.sampled_from(["null", "true", '{"b64": "AA=="}', '"a"', "1"]))
keys = st.one_of(st.sampled_from(FIELDS).map(json.dumps), text)


def listed(items):
    return st.lists(items, max_size=4).map(lambda each: f"[{', '.join(each)}]")


def mapped(values):
    pairs = st.lists(st.tuples(keys, values).map(": ".join), max_size=4)
    return pairs.map(lambda each: f"{{{', '.join(each)}}}")


def nested(inner):
    depths = st.sampled_from([1, 2, 31, 33, 300, 990, 30_000])
    deep = st.tuples(depths, inner).map(lambda each: "[" * each[0] + each[1] + "]" * each[0])
    return st.one_of(listed(inner), listed(inner), mapped(inner), mapped(inner), deep)


values = st.recursive(leaves, nested, max_leaves=8)
signatures = mostly(
    st.sampled_from(["echo", "raw", *SIGNATURES, *TYPES]), ["", "x", "serving_default"]
)
requests = st.tuples(
    signatures.map(json.dumps),
    st.sampled_from(FIELDS[:3]),
    st.one_of(listed(numbers), listed(listed(text)), values),
).map(lambda each: '{{"signature_name": {}, "{}": {}}}'.format(*each))
methods = st.sampled_from(["predict", "predict", "predict", "classify", "regress"])
documents = st.one_of(requests, requests, mapped(values), values)


@st.composite
def bodies(draw):
    body = draw(documents).encode(errors="surrogatepass")
    match draw(st.integers(0, 9)):
        case 8:
            return body[: draw(st.integers(0, len(body)))]
        case 9:
            place = draw(st.integers(0, len(body)))
            return body[:place] + draw(st.binary(max_size=5)) + body[place:]
    return body


def not_json(word):
    raise ValueError(f"{word} is not JSON")


def test_drawn_json_costs_no_good_request():
    address = demo().rest_address
    counts, stop, wrong = collections.Counter(), threading.Event(), []

    def ask_rightly():
        good = {"signature_name": "echo", "instances": [1.5, -2]}
        with grpc.insecure_channel(demo().address) as channel:
            while not stop.is_set():
                answer = ask(address, "POST", "/v1/models/demo:predict", good)[:2]
                if answer[0] != 200 or json.loads(answer[1]) != {"predictions": [1.5, -2]}:
                    wrong.append(answer)
                call(channel, predict(spec(), image_bytes=[IMAGE]))
                counts["good"] += 2

    @fuzz
    @given(bodies(), methods, st.booleans())
    def ask_wrongly(body, method, packed):
        headers = {"Content_Encoding": "gzip"} if packed else {}
        sent = gzip.compress(body) if packed else body
        status, found, _ = ask(address, "POST", f"/v1/models/demo:{method}", sent, **headers)
        assert status in (200, 400, 501), (body, found)
        answer = json.loads(found, parse_constant=not_json if status != 200 else None)
        assert status == 200 or list(answer) == ["error"]
        what = answer["error"][:15] if status == 400 else ""
        counts[f"{status} {what}"] += 1

    thread = threading.Thread(target=ask_rightly)
    thread.start()
    try:
        ask_wrongly()
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert counts["good"] > 5
    print(f"\n{dict(counts)}")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
    max_leaves=8,
)


@fuzz
@given(st.dictionaries(st.text(), json_values), st.booleans(), st.sampled_from([None, 4]))
def test_what_python_writes_is_read_as_it_was(value, ascii_only, indent):
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert same(json_api.parse(body), value)


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


@fuzz
@given(json_values)
def test_a_value_in_an_error_is_the_beginning_of_its_json(value):
    shown = json_api.shown(value)
    if len(shown) < 256:
        assert same(json.loads(shown), value)
    else:
        assert len(shown) < 300 + len(max(json.dumps(value, ensure_ascii=False).split('", "')))
