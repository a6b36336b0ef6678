"""The benchmark of the build: its figures are there and fit together; none is judged here."""

import json
import zipfile

import pytest

from tests.conftest import draw
from tfpipe.core.errors import UserError
from tools import bench_records as bench


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """40 JPEGs, a PNG and a damaged file."""
    folder = tmp_path_factory.mktemp("bench")
    with zipfile.ZipFile(folder / "images.zip", "w") as file:
        for number in range(20):
            for kind in ("cat", "dog"):
                draw(kind, number).save(folder / "image.jpg")
                file.write(folder / "image.jpg", f"{kind}.{number}.jpg")
        draw("cat", 20).save(folder / "image.png")
        file.write(folder / "image.png", "cat.20.png")
        file.writestr("dog.20.jpg", b"\xff\xd8\xff")
    return folder / "images.zip"


def run(source, folder, **changes):
    path = folder / "figures.json"
    options = bench.Options(
        source=(str(source),), rounds=1, json=str(path), work=str(folder), **changes
    )
    bench.main(options)
    return json.loads(path.read_text())


def test_one_run_measures_builds_limits_and_scaling(archive, tmp_path, capsys):
    report = run(archive, tmp_path, counts="20,1000")

    assert (report["images"], report["left_out"]) == (42, 2)
    (measured,) = report["rounds"]
    assert measured["read"]["images"] == measured["decode"]["images"] == 40
    assert measured["startup"]["images"] == bench.STARTUP_IMAGES
    assert [each["images"] for each in report["scaling"]] == [20, 42]
    builds = [measured["build"], measured["startup"], *measured["scaling"]]
    for each in [*builds, measured["read"], measured["decode"]]:
        assert each["command_s"] > each.get("seconds", 0) >= 0
    for each in builds:
        assert set(each["peak_mb"]) == set(bench.ROLES)
        assert all(10 < peak < 1000 for peak in each["peak_mb"].values())
    assert report["images_per_s"]["command"]["build"] == 42 / measured["build"]["command_s"]
    assert report["images_per_s"]["further"]["decode"] == 40 / measured["decode"]["seconds"]
    assert all(report["versions"].values())
    assert report["machine"]["cores"] >= 1
    assert "42 images, 2 of them not in the limits" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def measured(build_s):
    """One round of 1,000 images."""
    return {
        "build": {"images": 1000, "command_s": build_s},
        "read": {"images": 990, "left_out": 10, "command_s": 2.2, "seconds": 1.1},
        "decode": {"images": 990, "left_out": 10, "command_s": 2.0, "seconds": 0.9},
        "startup": {"images": 20, "command_s": 1.0},
        "scaling": [{"images": 510, "command_s": 1.98, "peak_mb": {"command": 50.0}}],
    }


def test_start_up_is_no_part_of_further_images():
    found = bench.figures(measured(build_s=2.96))
    assert found["images_per_s"]["further"] == pytest.approx(
        {"build": 500, "read": 900, "decode": 1100}
    )
    assert found["images_per_s"]["command"] == pytest.approx({"build": 1000 / 2.96, "read": 450})
    assert found["ratios"]["further"] == pytest.approx({"read": 5 / 9, "decode": 5 / 11})
    assert found["ratios"]["command"]["read"] == pytest.approx(1000 / 2.96 / 450)
    assert found["scaling"][0]["further_ms"] == pytest.approx(2.0)


def test_medians_are_of_the_rounds_in_which_there_is_a_figure():
    rounds = [bench.figures(measured(build_s)) for build_s in (0.9, 2.96, 5.0, 4.92)]
    found = bench.medians(rounds)
    assert rounds[0]["ratios"]["further"]["read"] is None
    assert found["images_per_s"]["further"]["build"] == pytest.approx(250)
    assert found["scaling"][0]["peak_mb"] == {"command": 50.0}
    assert (found["images"], type(found["images"])) == (1000, int)
    assert bench.medians(rounds[:1])["ratios"]["further"]["read"] is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"counts": "1000,many"}, "--counts"), ({"rounds": 0}, "--rounds"), ({"workers": 0}, "--w")],
)
def test_wrong_flags_are_refused(tmp_path, changes, named):
    with pytest.raises(UserError, match=named) as caught:
        bench.main(bench.Options(source=(str(tmp_path),), **changes))
    assert caught.value.status == 2


def test_a_build_that_fails_says_why(tmp_path):
    for kind in ("cat", "dog"):  # equal, so that they stay in one split
        draw("cat", 0).save(tmp_path / f"{kind}.0.jpg")
    with pytest.raises(UserError, match=r"(?s)tfpipe\.build_records .*failed: .*split .val. would"):
        bench.main(bench.Options(source=(str(tmp_path),), rounds=1))
