"""The benchmarks: arithmetic of the report, timing, and each one to its end on tiny images."""

import itertools
import json
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tools.bench import harness, lock, peers, report, train, worker
from tools.bench.harness import Case, Failed


def rounds(**rates):
    """Rounds in which each case has these images/s."""
    named = {name.replace("_", "-"): values for name, values in rates.items()}
    return [
        {name: {"images/s": values[n]} for name, values in named.items()}
        for n in range(len(next(iter(named.values()))))
    ]


@pytest.mark.parametrize(
    ("least", "most", "reached"), [(0.7, None, False), (0.6, None, True), (None, 0.6, False)]
)
def test_a_ratio_is_the_median_of_the_ratios_within_rounds(least, most, reached):
    made = rounds(limit=[120, 60, 40], ours=[60, 40, 40])
    target = report.ratio("images/s", "ours", "limit", least)._replace(most=most)
    found = report.summarize(made, ["limit"], [target])
    rate = found["cases"]["ours"]["images/s"]
    assert (rate["median"], rate["min"], rate["max"]) == (40, 40, 60)
    # By round 1/2, 2/3 and 1.
    assert rate["ratios"] == {"limit": pytest.approx(2 / 3)}
    (comparison,) = found["comparisons"]
    assert (comparison["median"], comparison["reached"]) == (pytest.approx(2 / 3), reached)


def test_the_other_checkout_has_its_own_comparisons():
    made = [{**one, "ours @old": {"images/s": 20}} for one in rounds(limit=[40], ours=[30])]
    found = report.summarize(made, [], [report.ratio("images/s", "ours", "limit")], ["", "old"])
    assert [each["median"] for each in found["comparisons"]] == [0.75, 0.5]
    assert found["cases"]["ours"]["images/s"]["ratios"] == {"ours @old": 1.5}


def session(folder):
    arguments = ["--rounds=3", f"--json={folder}/figures.json"]
    return harness.session(harness.parser("doc").parse_args(arguments))


def test_a_broken_peer_is_reported_and_not_fatal(tmp_path, capsys):
    calls = itertools.count(1)

    def broken(tree):
        raise Failed("its library is missing")

    cases = [Case("ours", lambda tree: {"images/s": next(calls)}), Case("peer", broken, ours=False)]
    comparison = report.ratio("images/s", "ours", "peer", least=1)
    with session(tmp_path) as opened:
        assert harness.run(opened, cases, ["peer"], [comparison]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["cases"]["peer"] == {"failed": "its library is missing"}
    assert found["cases"]["ours"]["images/s"]["median"] == 2
    assert found["comparisons"][0]["reached"] is None
    assert found["versions"]["this"]["python"] == sys.version.split()[0]
    assert "its library is missing" in capsys.readouterr().out
    with session(tmp_path) as opened:  # what fails of ours makes the status 1
        assert harness.run(opened, [Case("ours", broken)]) == 1


def test_a_process_that_fails_or_lacks_a_package_says_so(tmp_path):
    with session(tmp_path) as opened:
        with pytest.raises(Failed, match=r"peers\.limit failed: TypeError.*folder"):
            harness.call(opened.peers, "peers.limit")
        with pytest.raises(Failed, match="no_peer is not installed"):
            harness.call(opened.peers, "no_peer.function")


def test_whole_epochs_are_timed():
    begun = []

    def epoch():
        begun.append(1)
        for _ in range(3):
            time.sleep(0.001)
            yield 2

    rate = worker.timed(epoch, 0.02)["images/s"]
    assert len(begun) > 2
    assert 0 < rate < 2000
    with pytest.raises(RuntimeError, match="no images"):
        worker.timed(lambda: iter(()), 0.01)


def test_the_time_to_the_same_loss():
    """The seed's best is 0.3, ours 0.2: ours is as good after its second epoch, at 4 s."""
    seed = {"s": 50, "seconds": [20, 40], "losses": [0.5, 0.3], "best val_loss": 0.3}
    ours = {"s": 8, "seconds": [2, 4, 6], "losses": [0.4, 0.3, 0.2], "best val_loss": 0.2}
    one = {"r1-frozen-seed": seed, "r1-frozen": ours, "build": {"s": 1}}
    values = [each.value(one) for each in train.comparisons("r1-frozen")]
    assert values == [40 / 4, 40 / 5, 50 / 8, pytest.approx(2 / 3)]


def test_epochs_that_are_not_printed_end_before_the_next():
    """The last of a stage is printed; each epoch took a second, but the last one two."""
    lines = [(9.0, "epoch 1/3  loss 0.5"), (12.0, "epoch 3/3  loss 0.3")]
    rows = [{"stage": "head", "seconds": each} for each in ("1", "1", "2")]
    assert train.ends(harness.Finished(lines, 13, 1), rows) == [9, 10, 12]
    named = [(s, f"head {line}") for s, line in lines] + [(20.0, "top epoch 1/1  loss 0.2")]
    both = [*rows, {"stage": "top", "seconds": "7"}]
    assert train.ends(harness.Finished(named, 21, 1), both) == [9, 10, 12, 20]
    with pytest.raises(worker.Failed, match="3 logged epochs was not printed"):
        train.ends(harness.Finished([], 13, 1), rows)


SMALL = "--size=32 --seconds=0.05 --batch_size="


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("records", "--source={images}", "build / limit-reading"),
        (
            "input",
            "--source={images} --only=limit,original-*,dataset-uint8,tf-data " + SMALL + "8",
            "original-device / limit",
        ),
        (
            "extremes",
            "--source={images} --images=24 --photos=2 --tiny=64 --only=photos12-*,tiny-*,disk,url-*"
            " --size=32 --batch_size=2 --seconds=0.05",
            "url-20ms / url-0ms",
        ),
        ("augment", SMALL + "2", "augment-projective"),
        ("steps", "--only=inference-[po]* " + SMALL + "2", "inference-onednn / inference-plain"),
        (
            "train",
            "--source={images} --weights=none --image_size=32 --epochs=1 --only=build,r1-*",
            "seed / ours: s to the same loss",
        ),
        (
            "serving",
            "--images={images} --export={export} --seconds=1 --swap_seconds=5",
            "server / in-process",
        ),
    ],
)
def test_benchmarks_run_to_their_end(name, flags, expected, image_folder, export_dir):
    flags = flags.format(images=image_folder, export=export_dir).split()
    command = [sys.executable, "-m", f"tools.bench.{name}", "--rounds=1", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("peer", peers.INPUT, ids=lambda peer: peer.__name__)
def test_every_peer_that_is_installed_gives_batches(peer, image_folder, tmp_path):
    for path in image_folder.glob("*.1*.jpg"):
        folder = tmp_path / path.name[:3]
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    try:
        epoch = peer(folder=str(tmp_path), size=32, batch_size=8, workers=1)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert sum(epoch()) == len(list(tmp_path.glob("*/*")))


@pytest.mark.slow
def test_the_lock_is_measured_with_any_number_of_threads(records, monkeypatch, capsys):
    """Each image costs Python something, and a sleep is not counted as CPU time."""
    monkeypatch.setattr(lock, "REPEATS", 2)
    arguments = [f"--records={records}", "--seconds=0.2", "--sleep_ms=1"]
    monkeypatch.setattr(sys, "argv", ["lock", *arguments])
    lock.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    parts = {row[0]: float(row[1]) for row in rows if len(row) == 2 and row[1][0].isdigit()}
    total = parts.pop("together")
    assert total == pytest.approx(sum(parts.values()), abs=0.5)
    assert parts["fields of a record"] > 0.1
    scaled = {int(row[0]): float(row[2]) for row in rows if row[0].isdigit()}
    assert set(scaled) == {16, 32, 64}
    assert all(0 < share <= 1.05 for share in scaled.values())
