"""The load test counts what it sent, and draws it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_serving_servable import png, publish
from test_serving_server import ROOT, running_server

from serving import loadtest
from serving.loadtest import Answer


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    base = tmp_path_factory.mktemp("export") / "demo"
    publish(base, 1)
    with running_server(base, base.with_name("stderr")) as server:
        yield server.address


def run(address, tmp_path, *flags):
    (tmp_path / "image.png").write_bytes(png(140))
    command = [sys.executable, "-m", "serving.loadtest", f"--server={address}", "--model_name=demo"]
    return subprocess.run(
        [*command, str(tmp_path / "image.png"), "--warm_up=0.2", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
    )


def test_closed_loop(address, tmp_path):
    pytest.importorskip("matplotlib")
    flags = [f"--json={tmp_path / 'load.json'}", f"--plot={tmp_path / 'load.png'}"]
    done = run(address, tmp_path, "--concurrency=4", "--batch_size=3", "--seconds=1", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["codes"] == {"OK": report["requests"]}
    assert report["images_per_s"] == pytest.approx(3 * report["requests"], rel=1e-6)
    latency = report["latency_ms"]
    order = [latency[name] for name in ("p50", "p90", "p99", "p99.9", "max")]
    assert order == sorted(order)
    # Little's law: what is under way is the rate times the time.
    assert report["requests"] * latency["mean"] / 1000 == pytest.approx(4, rel=0.4)
    assert Image.open(tmp_path / "load.png").size[0] > 800
    assert f"OK {report['requests']:,}" in done.stdout


def test_open_loop(address, tmp_path):
    flags = ["--rate=60", "--seconds=2", f"--json={tmp_path / 'load.json'}"]
    done = run(address, tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "load.json").read_text())
    assert 60 < report["requests"] < 190  # 120 on average, and a deviation of 11


def test_errors_are_counted_by_code(address, tmp_path):
    done = run(address, tmp_path, "--seconds=0.5", "--signature=x", "--concurrency=2")
    assert done.returncode == 1
    assert "FAILED_PRECONDITION" in done.stdout


def test_mistakes_are_one_line(tmp_path):
    done = run("127.0.0.1:1", tmp_path, "--timeout=2")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 127.0.0.1:1 does not answer: ")
    (tmp_path / "none").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "serving.loadtest", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: there is no image to send")


def test_arrivals_are_a_poisson_process():
    times = np.array(list(loadtest._arrivals(200, 50, seed=3)))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    # Exponential gaps: the deviation is the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert times[-1] < 50


def test_the_summary_counts_good_answers_only():
    answers = [Answer(0.1 * n, 0.01 * (n + 1), "OK") for n in range(10)]
    found = loadtest.summary([*answers, Answer(1, 9, "UNAVAILABLE")], seconds=2, images=4)
    assert found["codes"] == {"OK": 10, "UNAVAILABLE": 1}
    assert found["images_per_s"] == 20
    assert found["latency_ms"]["p50"] == pytest.approx(55)
    assert found["latency_ms"]["max"] == pytest.approx(100)
    none = loadtest.summary([], seconds=1, images=1)
    assert np.isnan(none["latency_ms"]["p99"])
