"""`--runner=beam`: the same bytes as the pool of processes, and one line for what goes wrong."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tfpipe import build_records
from tfpipe.building import beam, scan, shards
from tfpipe.building.job import Job
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.images.store import Store
from tfpipe.records import manifest

if importlib.util.find_spec("apache_beam") is None:
    pytest.skip("needs apache-beam, which is not installed", allow_module_level=True)

ROOT = pathlib.Path(__file__).parents[1]
HERE = "--runner=DirectRunner --direct_running_mode=in_memory"
TWO = "--runner=DirectRunner --direct_running_mode=multi_threading --direct_num_workers=2"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """70 good images, more than one chunk, of which 3 are converted; 2 damaged ones; a read-me."""
    folder = tmp_path_factory.mktemp("in") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        for kind, count in (("cat", 40), ("dog", 27)):
            if number < count:
                size = rng.integers(60, 120, 2)
                picture = PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
                picture.save(folder / f"{kind}.{number}.{'png' if number % 3 == 0 else 'jpg'}")
    picture.save(folder / "dog.50.gif")
    picture.convert("CMYK").save(folder / "dog.51.jpg")
    picture.convert("L").save(folder / "dog.52.jpg")
    whole = (folder / "cat.1.jpg").read_bytes()
    (folder / "cat.60.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dog.60.jpg").write_bytes(b"\xff\xd8nothing")
    (folder / "README.txt").write_text("x")
    return folder


def build(source, out, **changes):
    options = {"source": (str(source),), "out": str(out), "max_rejects": 2, "workers": 2}
    build_records.main(build_records.Options(**{**options, **changes}))
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow  # starts the command
def test_two_threads_give_the_same_bytes_and_a_clean_terminal(images, tmp_path):
    changes = {"store": "resized:64", "rebalance": "copies", "shards": 3}
    expected = build(images, tmp_path / "pool", **changes)
    flags = [f"--{name}={value}" for name, value in changes.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tfpipe.build_records", f"--source={images}", *flags),
            *(f"--out={tmp_path / 'beam'}", "--max_rejects=2"),
            *("--runner=beam", f"--beam_args={TWO}"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "beam").iterdir()}
    assert found == expected
    assert {"report.html", "duplicates.csv", "rejects.csv"} < set(found)
    made = manifest.load(tmp_path / "beam")
    assert len(made.shards) == 6
    assert made.rejected == {"damaged": 2, "not an image name": 1}
    assert made.copies["train"]["dog"] > 0
    # Labels; duplicates, also of two classes; the shards, the page, the next command; the read-me;
    # the damaged.
    first_words = [line.split()[0] for line in done.stderr.splitlines()]
    expected = "labels: duplicates: warning: 6 look next: 1 warning:".split()
    assert first_words == expected, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["beam", "pool"]


@pytest.mark.parametrize(
    "changes",
    [{"store": "raw:32"}, {"rebalance": "drop", "folds": 3, "duplicates": "drop"}],
    ids=str,
)
def test_other_options_give_the_same_bytes(images, tmp_path, changes):
    changes = {"report": False, "shards": 2, **changes}
    expected = build(images, tmp_path / "pool", **changes)
    found = build(images, tmp_path / "beam", runner="beam", beam_args=HERE, **changes)
    assert found == expected


def test_a_build_goes_on_with_the_other_runner(images, tmp_path, monkeypatch):
    expected = build(images, tmp_path / "whole", report=False)
    plan = shards.plan

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "plan", stop)
    with pytest.raises(KeyboardInterrupt):
        build(images, tmp_path / "out", report=False)
    monkeypatch.setattr(shards, "plan", plan)
    called = []
    run = beam.BeamRunner.run
    monkeypatch.setattr(
        beam.BeamRunner, "run", lambda *a: called.append((a[1], [*a[2]])) or run(a[0], *called[-1])
    )
    found = build(images, tmp_path / "out", report=False, runner="beam", beam_args=HERE)
    assert found == expected
    assert [(function.__name__, len(items)) for function, items in called] == [("write_shard", 2)]


@pytest.mark.parametrize("beam_args", [HERE, TWO])
def test_an_image_that_changes_meanwhile_is_one_line(tmp_path, monkeypatch, capfd, beam_args):
    source = tmp_path / "in"
    source.mkdir()
    for index in range(8):
        pixels = np.full((20, 20, 3), 20 * index, np.uint8)
        PIL.Image.fromarray(pixels).save(source / f"{'cd'[index % 2]}.{index}.png")
    plan = shards.plan

    def change_and_plan(*arguments, **options):
        PIL.Image.new("RGB", (9, 9)).save(source / "c.4.png")
        return plan(*arguments, **options)

    monkeypatch.setattr(shards, "plan", change_and_plan)
    with pytest.raises(UserError) as caught:
        options = {"report": False, "quiet": True, "runner": "beam", "beam_args": beam_args}
        build(source, tmp_path / "out", **options)
    assert f"'{source}/c.4.png' changed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--direct_num_workers=two", ["direct_num_workers", "two"]),
        ("--direct_running_mode=fast", ["direct_running_mode", "fast"]),
        ("--numworkers=2", ["does not know '--numworkers=2'"]),
        ("DirectRunner", ["does not know 'DirectRunner'"]),
        ("--runner=Nowhere", ["Nowhere"]),
        ("--project='x", ["No closing quotation"]),
        ("--direct_running_mode=multi_processing", ["for ever", "runner=local"]),
    ],
)
def test_wrong_flags_are_one_line(text, words, capfd):
    with pytest.raises(UserError) as caught:
        beam.parse(text, 0)
    message = str(caught.value)
    assert message.startswith(f"`beam_args={text}`: ")
    assert "\n" not in message
    assert all(word in message for word in words)
    assert caught.value.status == 2
    assert capfd.readouterr() == ("", "")


def test_flags():
    assert beam.parse(TWO, 0) == TWO.split()
    assert beam.parse("", 3) == [*TWO.split()[:2], "--direct_num_workers=3"]
    # The server of a cluster knows flags that Beam does not.
    assert beam.parse("--runner=FlinkRunner --parallelism=64", 0)[1] == "--parallelism=64"


def test_flags_for_no_beam_and_no_beam_for_flags(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"beam_args.*runner=beam"):
        build(tmp_path, tmp_path / "out", beam_args=TWO)
    for name in [name for name in sys.modules if name.split(".")[0] == "apache_beam"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'tfpipe\[beam\]'$"):
        build(tmp_path, tmp_path / "out", runner="beam")


def fail(job, item):
    raise {"a": UserError, "b": ResumableError, "c": ValueError}[item](f"no {item}:\nso [x]")


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("a", UserError, "no a:\nso [x]"),
        ("b", ResumableError, "no b:\nso [x]"),
        ("c", ResumableError, "the Beam pipeline failed: so [x]"),
    ],
)
def test_what_a_task_raises(tmp_path, item, kind, message):
    job = Job((), str(tmp_path), Store(), 0)
    with pytest.raises(kind) as caught:
        list(beam.BeamRunner(job, HERE.split()).run(fail, [item]))
    assert type(caught.value) is kind
    assert str(caught.value) == message


def test_a_machine_without_the_files_is_an_error(tmp_path):
    """Else it would reject every image, or write where nobody looks."""
    job = Job((), str(tmp_path / "gone"), Store(), 0)
    with pytest.raises(UserError, match=r"gone does not exist on a machine"):
        list(beam.BeamRunner(job, HERE.split()).run(scan.scan_chunk, [scan.Chunk(0, ())]))


def test_no_items_start_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    job = Job((), str(tmp_path), Store(), 0)
    assert list(beam.BeamRunner(job, []).run(scan.scan_chunk, [])) == []
