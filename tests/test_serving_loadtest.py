"""The load test counts what it sent, and draws it."""

import json

import numpy as np
import pytest
from PIL import Image
from serving_demo import IMAGE, demo, run_command

from serving import loadtest
from serving.loadtest import RequestResult


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command with one image; returns its exit status, output and messages."""
    (tmp_path / "image.png").write_bytes(IMAGE)

    def run(*flags, server=""):
        given = [f"--server={server or demo().address}", "--model_name=demo", "--warm_up=0.2"]
        given += [str(tmp_path / "image.png"), f"--json={tmp_path / 'load.json'}"]
        return run_command(loadtest, [*given, *flags], monkeypatch, capsys)

    return run


def test_closed_loop(run, tmp_path):
    pytest.importorskip("matplotlib")
    flags = ["--concurrency=4", "--batch_size=3", "--seconds=1", f"--plot={tmp_path / 'load.png'}"]
    code, out, err = run(*flags)
    assert code == 0, err
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["codes"] == {"OK": report["requests"]}
    assert report["images_per_s"] == pytest.approx(3 * report["requests"], rel=1e-6)
    latency = report["latency_ms"]
    order = [latency[name] for name in ("p50", "p90", "p99", "p99.9", "max")]
    assert order == sorted(order)
    assert Image.open(tmp_path / "load.png").size[0] > 800
    assert f"OK {report['requests']:,}" in out


def test_open_loop(run, tmp_path):
    assert run("--rate=60", "--seconds=2", "--outputs=probability")[0] == 0
    report = json.loads((tmp_path / "load.json").read_text())
    assert 60 < report["requests"] < 190  # 120 on average, and a deviation of 11


@pytest.mark.parametrize(
    ("flags", "server", "words"),
    [
        (["--signature=x", "--concurrency=2", "--seconds=0.3"], "", "now --signature_name"),
        (["--timeout=2"], "127.0.0.1:1", "error: 127.0.0.1:1 does not answer: "),
    ],
)
def test_a_load_without_an_answer_fails(run, flags, server, words):
    code, out, err = run(*flags, server=server)
    assert code == 1
    assert ("FAILED_PRECONDITION" in out) is (not server)
    (line,) = err.splitlines()
    assert words in line


def test_arrivals_are_a_poisson_process():
    times = np.array(list(loadtest._arrivals(200, 50, seed=3)))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    # Exponential gaps: the deviation is the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert times[-1] < 50


def test_the_summary_counts_good_answers_only():
    results = [RequestResult(0.1 * n, 0.01 * (n + 1), "OK") for n in range(10)]
    found = loadtest.summary([*results, RequestResult(1, 9, "UNAVAILABLE")], seconds=2, images=4)
    assert found["codes"] == {"OK": 10, "UNAVAILABLE": 1}
    assert found["images_per_s"] == 20
    assert found["latency_ms"]["p50"] == pytest.approx(55)
    assert found["latency_ms"]["max"] == pytest.approx(100)
    none = loadtest.summary([], seconds=1, images=1)
    assert np.isnan(none["latency_ms"]["p99"])
