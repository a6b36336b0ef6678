"""The index of texts, against a dict."""

import collections

import hypothesis
from hypothesis import strategies as st

from tfpipe.sources.text_index import TextIndex


@hypothesis.given(st.lists(st.text("ab\ud800é", max_size=2)))
def test_it_finds_what_a_dict_finds(texts):
    places = collections.defaultdict(list)
    for place, text in enumerate(texts):
        places[text].append(place)
    index = TextIndex(texts)
    for text in ["", "missing", *texts]:
        assert index.candidates(text) == places.get(text, [])
    repeated = [place for found in places.values() if len(found) > 1 for place in found]
    assert list(index.repeated()) == sorted(repeated)
