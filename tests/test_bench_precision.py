"""The benchmark of precision and XLA: its figures are there and fit together; none is judged."""

import dataclasses
import json
import re

import pytest

from tfpipe.core.errors import UserError
from tools import bench_precision as bench

CELLS = ["float32", "float32 XLA", "mixed_bfloat16", "mixed_bfloat16 XLA"]


def options(**changes):
    values = {"backbones": "small_cnn", "image_size": 32, "batch_size": 2, "rounds": 2}
    return bench.Options(**{**values, **changes})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench, "_SPAN_S", 0.0001)


def test_one_run_measures_and_shows_every_cell(tmp_path, capsys, monkeypatch, quick):
    """In this process, which has TensorFlow already."""

    def watch(given, child):
        here = dataclasses.replace(given, child=child)
        return list(bench.measure(here)), {}

    monkeypatch.setattr(bench, "_watch", watch)
    path = tmp_path / "figures.json"
    bench.main(options(stages="features,head", json=str(path)))
    figures = json.loads(path.read_text())["figures"]["small_cnn"]
    assert list(figures) == ["features", "head"]
    for row in figures.values():
        assert list(row)[:4] == CELLS
        assert row["float32"]["ratio"] == 1
        for cell in row.values():
            time = cell["ms_per_image"]
            assert 0 < time["min"] <= time["median"] <= time["max"]
            assert time["rounds"] == 2
            assert cell["ratio"] > 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ms an image" in printed
    assert "Times as fast as float32 without XLA" in printed
    assert re.search(r"\d \(\d", printed)


def test_a_process_measures_a_row():
    found = bench.run(options(seconds=60.0), "small_cnn", "head", CELLS[:1])
    assert len(found["float32"]["seconds"]) == 2


def test_a_cell_that_takes_too_long_is_left_out():
    """No model is built in a millisecond."""
    found = bench.run(options(seconds=0.001), "small_cnn", "head", CELLS[:1])
    assert found == {"float32": {"over": 0.001}}


def processes(*endings):
    """Stands in for the processes of a row: of each its lines and why it ended."""
    left, asked = list(endings), []

    def watch(given, child):
        asked.append(child.split(",")[2:])
        return left.pop(0)

    watch.asked = asked
    return watch


def test_what_fails_or_is_slow_does_not_keep_the_others_from_being_measured(monkeypatch):
    watch = processes(
        ([{"begins": CELLS[0]}, {"begins": CELLS[1]}], {"over": 9.0}),
        ([{"begins": CELLS[0]}, {"begins": CELLS[2]}], {"failed": "no memory"}),
        (
            [
                *({"begins": CELLS[i]} for i in (0, 3, 0)),
                *({"cell": CELLS[0], "s": 1.0}, {"begins": CELLS[3]}),
                *({"cell": CELLS[3], "s": 2.0}, {"begins": CELLS[0]}),
                *({"cell": CELLS[0], "s": 3.0}, {"begins": CELLS[3]}),
            ],
            {"over": 9.0},
        ),
        ([{"begins": CELLS[0]}, {"cell": CELLS[0], "s": 4.0}], {}),
    )
    monkeypatch.setattr(bench, "_watch", watch)
    found = bench.run(options(), "small_cnn", "all", CELLS)
    assert found == {
        CELLS[0]: {"seconds": [4.0]},
        CELLS[1]: {"over": 9.0},
        CELLS[2]: {"failed": "no memory"},
        CELLS[3]: {"seconds": [2.0]},  # what it had before it became slow
    }
    assert watch.asked == [CELLS, [CELLS[0], *CELLS[2:]], [CELLS[0], CELLS[3]], CELLS[:1]]


def test_a_process_that_does_not_start_is_explained(monkeypatch):
    monkeypatch.setattr(bench, "_watch", processes(([], {"failed": "error: no such head"})))
    with pytest.raises(UserError, match=r"small_cnn all does not start.*no such head"):
        bench.run(options(), "small_cnn", "all", CELLS)


def test_the_summary():
    found = {
        "float32": {"seconds": [1.0, 2.0, 6.0]},
        "float32 XLA": {"over": 60.0},
        "mixed_bfloat16": {"seconds": [2.0, 1.0]},  # it had time for fewer rounds
    }
    figures = bench.summary(found, 10)
    time = {"median": 200, "min": 100, "max": 600, "rounds": 3}
    assert figures["float32"] == {"ms_per_image": time, "ratio": 1}
    assert figures["float32 XLA"] == {"over": 60.0}
    assert figures["mixed_bfloat16"]["ratio"] == pytest.approx((0.5 + 2) / 2)
    alone = bench.summary({"float32": {"failed": "x"}, "b": {"seconds": [1.0]}}, 1)
    assert alone["b"]["ratio"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "--rounds=0: it must be at least 1"),
        ({"batch_size": 0}, "--batch_size=0"),
        ({"seconds": 0.0}, "--seconds=0: it must be above 0"),
        ({"stages": "features,nose"}, "--stages: 'nose' is none of features, all, head"),
        ({"backbones": "small_cnm"}, "unknown backbone"),
    ],
)
def test_wrong_flags_are_explained(changes, message):
    with pytest.raises(UserError, match=message):
        bench.main(options(**changes))
