"""What a prediction survives: kills, full disks, servers that go, two at once, other commands."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from serving_demo import embedded

from tfpipe import predict
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.predictions import chunk, output
from tfpipe.predictions.run_classifier import RunClassifier

IMAGES = 700  # two chunks and a part


@pytest.fixture(scope="module")
def many(image_folder, tmp_path_factory):
    """Images under many names, a damaged one among them."""
    folder = tmp_path_factory.mktemp("many")
    originals = sorted(image_folder.iterdir())
    for number in range(IMAGES):
        os.link(originals[number % len(originals)], folder / f"{number}.jpg")
    (folder / "400.jpg").unlink()
    (folder / "400.jpg").write_bytes(originals[0].read_bytes()[:700])
    return folder


def run(out, source, **flags):
    return predict.main(predict.Options(source=(str(source),), out=str(out), **flags))


def start(many, out, *flags, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "tfpipe.predict", f"--source={many}", f"--out={out}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=240)
    assert "Traceback" not in stderr
    assert stdout == ""
    return process.returncode, stderr.splitlines()


def work_folder(folder, name):
    found = [path for path in folder.iterdir() if path.name.startswith(f".partial-{name}-")]
    assert len(found) <= 1
    return found[0] if found else None


def chunks_done(folder, name):
    work = work_folder(folder, name)
    return sorted(path.name for path in work.glob("chunks/0*")) if work else []


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [0, 1])
def test_a_killed_prediction_goes_on_to_the_same_bytes(run_dir, many, tmp_path, chunks):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    flags = {"run_dir": str(run_dir), "explain": str(tmp_path / "maps"), "explain_limit": 50}
    run(tmp_path / "whole/o.jsonl", many, **flags)
    (tmp_path / "maps").rename(tmp_path / "whole/maps")

    folder = tmp_path / "killed"
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    process = start(many, folder / "o.jsonl", *arguments)
    wait_for(
        lambda: work_folder(folder, "o.jsonl") and len(chunks_done(folder, "o.jsonl")) >= chunks,
        process,
    )
    process.kill()
    finish(process)
    assert not (folder / "o.jsonl").exists()
    assert len(chunks_done(folder, "o.jsonl")) < 3, "it was killed too late to test anything"
    status, said = finish(start(many, folder / "o.jsonl", *arguments))
    assert status == predict.REJECTS
    assert "resuming in" in said[0] or not chunks  # it may have done nothing yet
    assert "starting over" not in said[0]
    (tmp_path / "maps").rename(folder / "maps")
    assert contents(folder) == contents(tmp_path / "whole")
    assert len(contents(folder)) == 3 + 50


@pytest.fixture
def small(monkeypatch, image_folder):
    """Chunks of 16 of 80 images; a list of how many images were classified in each batch."""
    monkeypatch.setattr(chunk, "SIZE", 16)
    classified = []
    classify = RunClassifier.classify
    monkeypatch.setattr(
        RunClassifier,
        "classify",
        lambda self, images: classified.append(len(images)) or classify(self, images),
    )
    return classified


@pytest.fixture
def interrupted(run_dir, image_folder, small, tmp_path, monkeypatch):
    """Classifies all images for tmp_path/out/o.csv, and is stopped before anything is written."""
    write, out = output.write, tmp_path / "out" / "o.csv"
    out.parent.mkdir()

    def stop(source=image_folder, error=KeyboardInterrupt):
        def fail(*_):
            monkeypatch.setattr(output, "write", write)
            raise error("no room")

        monkeypatch.setattr(output, "write", fail)
        with pytest.raises(error):
            run(out, source, run_dir=str(run_dir))
        assert small == [16] * 5
        return out

    return stop


def test_what_is_done_is_not_done_again(run_dir, image_folder, small, interrupted):
    out = interrupted()
    # Another form, other labels: the answers are the same.
    run(out, image_folder, run_dir=str(run_dir), threshold="0.1", columns="all")
    assert small == [16] * 5
    assert sorted(os.listdir(out.parent)) == ["o.csv", "o.csv.summary.json"]


@pytest.mark.parametrize("change", ["clip", "tta", "source", "model"])
def test_another_prediction_begins_anew_and_says_so(
    run_dir, image_folder, export_dir, small, interrupted, tmp_path, capsys, change
):
    source = shutil.copytree(image_folder, tmp_path / "in")
    out = interrupted(source)
    left = work_folder(out.parent, "o.csv")
    capsys.readouterr()
    flags = {"run_dir": str(run_dir)}
    if change == "source":
        (source / "cat.0.jpg").write_bytes((source / "dog.0.jpg").read_bytes())
    elif change == "model":
        flags = {"export_dir": str(export_dir)}
    else:
        flags[change] = {"clip": "0.1,0.9", "tta": "none"}[change]
    run(out, source, **flags)
    assert capsys.readouterr().err.splitlines()[0] == (
        f"removing {left}, which an earlier prediction left"
    )
    assert len(small) == (5 if change == "model" else 10)
    assert sorted(os.listdir(out.parent)) == ["o.csv", "o.csv.summary.json"]


def test_a_damaged_chunk_is_done_again(run_dir, image_folder, small, interrupted, tmp_path):
    out = interrupted()
    first, second, third, *_ = sorted(work_folder(out.parent, "o.csv").glob("chunks/*"))
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(b"")
    third.unlink()
    del small[:]
    run(out, image_folder, run_dir=str(run_dir))
    assert small == [16] * 3
    run(tmp_path / "whole.csv", image_folder, run_dir=str(run_dir))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_the_other_runner_goes_on(run_dir, image_folder, small, interrupted):
    out = interrupted(error=ResumableError)
    beam = "--runner=DirectRunner --direct_running_mode=in_memory"
    run(out, image_folder, run_dir=str(run_dir), runner="beam", beam_args=beam)
    assert small == [16] * 5


def test_two_at_once_are_one_line(run_dir, image_folder, interrupted):
    out = interrupted()
    with open(work_folder(out.parent, "o.csv") / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another prediction writes there now: wait for it"):
            run(out, image_folder, run_dir=str(run_dir))
    assert run(out, image_folder, run_dir=str(run_dir)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("most", [1_000, 10_000])
def test_a_full_disk_then_room_again(run_dir, many, tmp_path, most):
    """While chunks are written, while the output is."""

    def limit():  # a stand-in for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    (tmp_path / "whole").mkdir()
    (tmp_path / "full").mkdir()
    run(tmp_path / "whole/o.csv", many, run_dir=str(run_dir), columns="all")
    flags = [f"--run_dir={run_dir}", "--columns=all"]
    status, said = finish(start(many, tmp_path / "full/o.csv", *flags, preexec_fn=limit))
    assert status == 1
    assert said[-1].startswith("error: cannot write ")
    assert "the same command resumes from there" in said[-2]
    assert [name[:15] for name in os.listdir(tmp_path / "full")] == [".partial-o.csv-"]
    status, said = finish(start(many, tmp_path / "full/o.csv", *flags))
    assert status == predict.REJECTS
    assert "resuming in" in said[0]
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"out": "/proc/o.csv"}, "^cannot write to /proc"),
        ({"out": "/dev/null/o.csv"}, "^--out="),
        ({"explain": "/proc/maps"}, "^--explain=/proc/maps cannot be written to"),
        (
            {"run_dir": "", "server": "127.0.0.1:1", "retries": 0},
            "^--server=127.0.0.1:1: no server",
        ),
    ],
)
def test_what_stops_everything_is_one_line(run_dir, image_folder, tmp_path, flags, message):
    with pytest.raises(UserError, match=message) as caught:
        run(source=image_folder, **{"out": tmp_path / "o.csv", "run_dir": str(run_dir), **flags})
    assert "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(export_dir, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chunk, "SIZE", 16)
    save, done = chunk._save, []
    with embedded(export_dir, model_name="tiny") as server:
        address = server.address
        flags = {"server": address, "model_name": "tiny", "concurrency": 1, "retries": 1}

        def save_and_stop(*arguments):
            save(*arguments)
            done.append(1)
            if len(done) == 2:
                server.stop()

        monkeypatch.setattr(chunk, "_save", save_and_stop)
        with pytest.raises(ResumableError, match=f"^--server={address}: no server answers") as end:
            run(tmp_path / "o.jsonl", image_folder, **flags)
    assert "\n" not in str(end.value)
    assert "the same command resumes from there" in capsys.readouterr().err
    assert len(chunks_done(tmp_path, "o.jsonl")) >= 2
    del done[:]
    monkeypatch.setattr(chunk, "_save", lambda *arguments: save(*arguments) or done.append(1))
    with embedded(export_dir, model_name="tiny", port=int(address.rpartition(":")[2])):
        assert run(tmp_path / "o.jsonl", image_folder, **flags) == 0
    assert len(done) <= 3
    run(tmp_path / "whole.jsonl", image_folder, export_dir=str(export_dir))
    rows, expected = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("o.jsonl", "whole.jsonl")
    )
    assert [row["name"] for row in rows] == [row["name"] for row in expected]
    np.testing.assert_allclose(
        [row["probability_dog"] for row in rows],
        [row["probability_dog"] for row in expected],
        atol=1e-5,
    )


@pytest.mark.slow
def test_ctrl_c_says_that_it_can_go_on(run_dir, many, tmp_path):
    def heed():  # which a shell has what it runs in the background ignore
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start(many, tmp_path / "o.csv", f"--run_dir={run_dir}", preexec_fn=heed)
    wait_for(lambda: chunks_done(tmp_path, "o.csv"), process)
    process.send_signal(signal.SIGINT)
    status, said = finish(process)
    assert status == 130
    assert "the same command resumes from there" in said[-2]
    assert said[-1] == "error: interrupted"
