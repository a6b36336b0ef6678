"""The benchmark of the input: its figures are there and fit together; none is judged here."""

import dataclasses
import importlib.util
import json
import sys
import time
import zipfile

import numpy as np
import pytest

from tests.conftest import draw
from tfpipe.core.errors import UserError
from tfpipe.records import manifest as manifests
from tools import bench_input as bench
from tools import bench_input_peers as peers
from tools import bench_input_pipeline as own

JPEGS, SIZE = 40, 32


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """40 JPEGs, a PNG and a damaged file."""
    folder = tmp_path_factory.mktemp("bench")
    with zipfile.ZipFile(folder / "images.zip", "w") as file:
        for number in range(JPEGS // 2):
            for kind in ("cat", "dog"):
                draw(kind, number).save(folder / "image.jpg")
                file.write(folder / "image.jpg", f"{kind}.{number}.jpg")
        draw("cat", 20).save(folder / "image.png")
        file.write(folder / "image.png", "cat.20.png")
        file.writestr("dog.20.jpg", b"\xff\xd8\xff")
    return folder / "images.zip"


@pytest.fixture(scope="module")
def prepared(archive, tmp_path_factory):
    """The images of `archive` in all forms."""
    options = bench.Options(source=(str(archive),), size=SIZE)
    return bench.Bench(options, tmp_path_factory.mktemp("work"))


def test_one_run_measures_and_lists_what_is_not_installed(archive, tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = bench.Options(
        source=(str(archive),),
        only="limit,pytorch,count-*",
        counts="1000",
        rounds=2,
        seconds=0.05,
        size=SIZE,
        batch_size=8,
        workers=1,
        json=str(path),
        work=str(tmp_path),
    )
    bench.main(options)

    report, printed = json.loads(path.read_text()), capsys.readouterr()
    assert report["images"] == JPEGS + 1
    assert set(report["figures"]) == {"limit", "pytorch"}
    limit = report["figures"]["limit"]["images_per_s"]
    rates = [each["limit"]["images"] / each["limit"]["seconds"] for each in report["rounds"]]
    assert (limit["min"], limit["max"]) == (min(rates), max(rates))
    assert limit["median"] == pytest.approx(sum(rates) / 2)
    for each in report["rounds"]:
        assert each["limit"]["images"] == JPEGS * each["limit"]["epochs"] > 0
    assert all(report["figures"]["limit"]["versions"].values())
    loader = report["figures"]["pytorch"]
    if importlib.util.find_spec("torch"):
        assert loader["images_per_s"]["min"] > 0
    else:
        assert loader == {"missing": "torch"}
        assert any(
            {"pytorch", "not", "installed"} <= set(line.split())
            for line in printed.out.splitlines()
        )
    assert "count-1000 is left out: --source has 41 images" in printed.err
    assert report["machine"]["cores"] >= 1
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


def test_all_forms_hold_the_same_images(prepared, archive):
    with zipfile.ZipFile(archive) as file:
        accepted = [file.read(name) for name in file.namelist() if name != "dog.20.jpg"]
    paths = list(prepared.tree.glob("*/*"))
    assert sorted(path.read_bytes() for path in paths) == sorted(accepted)
    assert {path.parent.name for path in paths} == {"cat", "dog"}
    assert [path.parent.name for path in paths if path.suffix == ".png"] == ["cat"]
    for name, store, counts in (
        ("memory", "original", {"cat": 21, "dog": 20}),
        ("resized-device", f"resized:{SIZE}x{SIZE}", {"cat": 21, "dog": 20}),
        ("raw-host-augment", f"raw:{SIZE}", {"cat": 21, "dog": 20}),
        ("count-9", "original", {"cat": 5, "dog": 4}),
    ):
        manifest = manifests.load(prepared.records(name))
        assert manifest.arguments["store"] == store
        assert manifest.splits == {"train": counts}


def measured(images, **seconds):
    """One round in which each measurement took so long for so many images."""
    return {
        name.replace("_", "-"): {
            "images": images, "seconds": each, "peak_mb": 100.0, "versions": {"v": "1"},
        }
        for name, each in seconds.items()
    }  # fmt: skip


def test_ratios_are_medians_of_the_rounds_ratios():
    rounds = [
        measured(120, limit=1.0, original_host=2.0, original_host_augment=3.0),
        measured(120, limit=2.0, original_host=3.0, original_host_augment=6.0),
        measured(120, limit=3.0, original_host=3.0, original_host_augment=12.0),
    ]
    for each, seconds in zip(rounds, (30.0, 40.0, 240.0), strict=True):
        each |= measured(120, keras_generator=seconds) | {"pytorch": {"missing": "torch"}}
    found = bench.summary(rounds)

    # By round 0.5, 0.67 and 1; the ratio of the median rates would be 40 / 60.
    assert found["ratios"]["original-host"]["limit"] == pytest.approx(2 / 3)
    assert found["ratios"]["original-host-augment"]["limit"] == pytest.approx(1 / 3)
    assert found["ratios"]["original-host"]["pytorch"] is None
    assert found["ratios"]["original-host"]["opencv"] is None
    assert found["figures"]["original-host"]["images_per_s"] == {
        "median": 40.0, "min": 40.0, "max": 60.0,
    }  # fmt: skip
    assert found["figures"]["pytorch"] == {"missing": "torch"}
    targets = {(each["name"], each["to"]): each for each in found["targets"]}
    assert targets["original-host", "limit"]["ratio"] == pytest.approx(2 / 3)
    assert targets["original-host-augment", "keras-generator"]["ratio"] == pytest.approx(10)
    assert targets["resized-host", "limit"]["ratio"] is None


def test_the_largest_count_is_compared_with_the_smallest():
    rounds = [measured(1000, count_1000=1.0, count_4000=1.5, count_8000=1.25)]
    target = bench.summary(rounds)["targets"][-1]
    assert (target["name"], target["to"]) == ("count-8000", "count-1000")
    assert target["ratio"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("found", "reached"), [({}, "not measured"), ({"original_host": 2.0}, "no")]
)
def test_targets_are_shown_beside_what_was_measured(found, reached, capsys):
    rounds = [measured(120, limit=1.0, **found)]
    memory = {"resident_mb": [50.0, 100.0, 110.0]} if found else {}
    bench._show({"images": 120, "memory": memory} | bench.summary(rounds), 1)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.strip().startswith("original-host / limit"))
    assert line.split()[3:] == (["0.50"] if found else []) + [">=", "0.55", *reached.split()]
    assert any(line.endswith(" 1.100  ") for line in lines) == bool(found)


def test_what_is_timed_are_whole_epochs():
    begun = []

    def epoch():
        begun.append(time.perf_counter())
        yield from (2, 2, 1)

    found = peers.timed(epoch, 0.01)
    assert found["epochs"] == len(begun) - 1 > 1
    assert found["images"] == 5 * found["epochs"]
    assert found["seconds"] >= 0.01


def test_an_epoch_that_takes_too_long_is_cut():
    def epoch():
        for _ in range(1000):
            time.sleep(0.01)
            yield 7

    start = time.perf_counter()
    found = peers.timed(epoch, 0.05)
    assert time.perf_counter() - start < 5
    assert found["epochs"] == 0
    assert found["seconds"] >= 0.05
    assert found["images"] % 7 == 0 < found["images"]


def measure(prepared, name, capsys, main):
    main(name, prepared)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def run_peer(name, prepared):
    peers.main(
        [
            f"--name={name}", f"--folder={prepared.tree}", f"--size={SIZE}", "--batch_size=8",
            "--seconds=0.01", "--workers=1",
        ]
    )  # fmt: skip


MODULES = {
    "opencv": "cv2",
    "keras-dataset": "tensorflow",
    "keras-generator": "tensorflow",
    "pytorch": "torch",
    "augment-tfa": "tensorflow_addons",
    "augment-keras": "tensorflow",
}


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name != "limit"])
def test_every_peer_that_is_installed_is_measured(prepared, name, capsys):
    pytest.importorskip(MODULES[name], reason=f"{MODULES[name]} is not installed")
    found = measure(prepared, name, capsys, run_peer)
    # A whole epoch of images, or batches of those in memory, or what was cut.
    assert found["images"] > 0
    assert found["seconds"] >= 0.01
    assert found["peak_mb"] > 10
    assert all(found["versions"].values())


@pytest.mark.parametrize("name", MODULES)
def test_a_peer_that_is_not_installed_is_named(prepared, name, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULES[name], None)  # as if it were not there
    assert measure(prepared, name, capsys, run_peer) == {"missing": MODULES[name]}


def test_names_are_those_of_the_processes():
    assert set(peers.PEERS) == {bench.LIMIT, *bench.PEERS, *bench.AUGMENT_PEERS}
    assert set(MODULES) == set(peers.PEERS) - {bench.LIMIT}


@pytest.mark.parametrize("kind", ["crop", "rotate", "shear", "flip"])
def test_recipe_r1_transforms_with_opencv(kind):
    cv2 = pytest.importorskip("cv2", reason="cv2 is not installed")

    class Always:
        def choice(self, kinds):
            assert kind in kinds
            return kind

        def uniform(self, low, high):
            return high

    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 5:15] = 255
    found = peers._transformed(cv2, image, Always())
    assert found.shape == image.shape
    assert (found != image).any()
    if kind == "flip":
        np.testing.assert_array_equal(found, image[:, ::-1])


@pytest.mark.parametrize(
    "name",
    [
        "original-host", "original-host-augment", "original-device", "original-device-augment",
        "raw-device", "resized-host-augment", "augment-xla", "augment-graph", "memory",
    ],
)  # fmt: skip
def test_the_pipeline_is_measured(prepared, name, capsys):
    folder = "" if name in bench.AUGMENT else str(prepared.records(name))
    options = own.Options(
        name=name, folder=folder, size=SIZE, batch_size=8, seconds=0.01, workers=1
    )
    found = measure(prepared, name, capsys, lambda *_: own.main(options))
    if name == "memory":
        assert len(found["resident_mb"]) == own.MEMORY_EPOCHS
        assert all(mb > 10 for mb in found["resident_mb"])
    else:
        epoch = JPEGS + 1 if folder else 8 * own._STEPS
        if found["epochs"]:
            assert found["images"] == epoch * found["epochs"]
        else:
            assert 0 < found["images"] <= epoch  # cut, at the last batch at the latest
        assert found["images"] % 8 in (0, found["epochs"] * epoch % 8, epoch % 8)
        assert found["peak_mb"] > 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"counts": "1000,many"}, "--counts"),
        ({"only": "limit,tape-*"}, "--only: 'tape-*'"),
        ({"rounds": 0}, "--rounds"),
        ({"size": 0}, "--size"),
        ({"batch_size": 0}, "--batch_size"),
        ({"workers": -1}, "--workers"),
        ({"seconds": 0.0}, "--seconds"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, changes, named):
    with pytest.raises(UserError) as caught:
        bench.main(bench.Options(source=(str(tmp_path),), **changes))
    assert str(caught.value).startswith(named)
    assert caught.value.status == 2


def test_a_process_that_fails_says_why(archive, tmp_path):
    options = bench.Options(source=(str(archive),), only="pytorch", work=str(tmp_path))
    for python, why in ((str(tmp_path / "python"), "cannot be run"), ("/bin/false", "failed")):
        with pytest.raises(UserError, match=why):
            bench.main(dataclasses.replace(options, peers_python=python))
