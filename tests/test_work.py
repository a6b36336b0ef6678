"""The work folder of a build: its lock, its leftovers, and how it is published."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import processes
import pytest

from tfpipe.building import work
from tfpipe.core.errors import ResumableError, UserError

ROOT = pathlib.Path(__file__).parents[1]
KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "out"


def publish(out, key, text):
    with work.open_work(out, key) as folder:
        (folder / "result/manifest.json").write_text(text)
        work.publish(folder, out)


def test_published_by_a_rename_and_nothing_is_left(out):
    with work.open_work(out, KEY) as folder:
        assert folder.parent == out.parent
        (folder / "result/a").write_text("1")
        inode = (folder / "result").stat().st_ino
        assert not out.exists()
        work.publish(folder, out)
    assert out.stat().st_ino == inode
    assert os.listdir(out) == ["a"]
    assert os.listdir(out.parent) == ["out"]


def test_the_old_data_set_stays_until_the_new_one_is_complete(out, monkeypatch):
    publish(out, KEY, "old")
    seen = []
    rename = pathlib.Path.rename

    def watched(self, target):
        seen.append(out.exists() and (out / "manifest.json").read_text())
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", watched)
    with work.open_work(out, OTHER) as folder:
        (folder / "result/manifest.json").write_text("new")
        assert (out / "manifest.json").read_text() == "old"
        work.publish(folder, out)
    assert seen == ["old", False]  # it makes way, and the new one comes
    assert (out / "manifest.json").read_text() == "new"
    assert os.listdir(out.parent) == ["out"]


def test_an_empty_folder_makes_way(out):
    out.mkdir(parents=True)
    publish(out, KEY, "new")
    assert os.listdir(out) == ["manifest.json"]


@pytest.mark.parametrize("at", [0, 1])
def test_publishing_that_was_ended_is_done_again(out, monkeypatch, at):
    publish(out, KEY, "old")
    rename = pathlib.Path.rename
    renames = []

    def ended(self, target):
        renames.append(target)
        if len(renames) > at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", ended)
    with pytest.raises(KeyboardInterrupt), work.open_work(out, OTHER) as folder:
        (folder / "result/manifest.json").write_text("new")
        work.publish(folder, out)
    monkeypatch.undo()
    # There is a whole data set or none, and none was lost.
    assert out.exists() == (at == 0)
    assert at == 0 or (folder / "old/manifest.json").read_text() == "old"
    with work.open_work(out, OTHER) as folder:
        work.publish(folder, out)
    assert (out / "manifest.json").read_text() == "new"
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (None, True),
        (ResumableError("the disk is full"), True),
        (KeyboardInterrupt(), True),
        (UserError("no image is good"), False),
    ],
)
def test_work_stays_if_the_build_can_go_on(out, capfd, error, stays):
    with contextlib.suppress(type(error) if error else ()), work.open_work(out, KEY) as folder:
        (folder / "scan").mkdir()
        if error:
            raise error
    assert (folder / "scan").exists() == folder.exists() == stays
    said = capfd.readouterr().err
    assert ("the same command resumes" in said) == (stays and error is not None)
    with work.open_work(out, KEY) as again:
        assert again == folder
        assert (folder / "scan").exists() == stays
    assert ("resuming in" in capfd.readouterr().err) == stays


def test_two_builds_at_once(out, capfd):
    words = pytest.raises(UserError, match=rf"out={out}.*another build writes there now[^\n]*$")
    with work.open_work(out, KEY) as folder:
        (folder / "result/a").write_text("1")
        with words, work.open_work(out, KEY):
            pass
        assert (folder / "result/a").read_text() == "1"
    with work.open_work(out, KEY):  # the lock ends with the build
        pass


def test_a_lock_of_a_process_that_was_killed_is_none(out):
    script = (
        "import pathlib, sys, time\nfrom tfpipe.building import work\n"
        f"with work.open_work(pathlib.Path(sys.argv[1]), {KEY!r}):\n"
        "    print(flush=True)\n    time.sleep(99)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.readline()
    with pytest.raises(UserError), work.open_work(out, KEY):
        pass
    process.kill()
    process.communicate()
    with work.open_work(out, KEY):
        pass


def partial(out, key=OTHER, lock=True):
    """Makes what a build leaves that was killed."""
    folder = out.parent / f".partial-{out.name}-{key[:12]}"
    (folder / "result").mkdir(parents=True)
    if lock:
        (folder / "lock").touch()
    return folder


@pytest.mark.parametrize("lock", [True, False])
def test_what_other_builds_left_is_removed(out, lock):
    """Without a lock, if one was killed at its beginning or end."""
    left = partial(out, OTHER, lock)
    mine = partial(out, KEY)
    work.remove_leftovers(out, keep=mine)
    assert not left.exists()
    assert mine.exists()
    work.remove_leftovers(out)
    assert os.listdir(out.parent) == []


def test_what_is_somebody_elses_is_not_removed(out):
    others = [
        partial(out.with_name("out2"), OTHER),
        partial(out.with_name("ou"), OTHER),
        out.parent / ".partial-out-notes",
        out.parent / f".partial-out-{KEY[:11]}",
        out.parent / f".partial-out-{KEY[:13]}",
        out.parent / f".partial-xout-{KEY[:12]}",
    ]
    for folder in others:
        folder.mkdir(exist_ok=True)
    file = out.parent / f".partial-out-{KEY[:12]}"
    file.write_text("no folder")
    work.remove_leftovers(out)
    assert set(out.parent.iterdir()) == {*others, file}


def test_a_running_build_is_not_removed(out):
    with work.open_work(out, OTHER) as running:
        for key in (OTHER, KEY):  # also one of other options would replace what this one makes
            with pytest.raises(UserError, match="another build"), work.open_work(out, key):
                pass
        assert (running / "result").is_dir()
    work.remove_leftovers(out)
    assert not running.exists()


def test_what_may_not_have_reached_the_disk_is_done_again(out):
    with work.open_work(out, KEY) as folder:
        (folder / "scan").mkdir()
        (folder / "scan/x").write_text("perhaps")
        (folder / "lock").write_text("another boot of the machine")
    with work.open_work(out, KEY) as folder:
        assert not (folder / "scan").exists()
        assert os.listdir(folder / "result") == []
        (folder / "scan").mkdir()
    with work.open_work(out, KEY) as folder:
        assert (folder / "scan").exists()


@pytest.mark.parametrize("lock", [True, False])
def test_one_that_was_killed_before_it_did_anything_is_begun(out, capfd, lock):
    """It may not have told yet since when the machine has been running."""
    left = partial(out, KEY, lock)
    with work.open_work(out, KEY) as folder:
        assert folder == left
        (folder / "scan").mkdir()
    assert capfd.readouterr().err == ""
    with work.open_work(out, KEY) as folder:  # now it is known
        assert (folder / "scan").exists()
    assert "resuming in" in capfd.readouterr().err


def test_a_file_that_was_half_written_is_not_published(out):
    """A kill inside `storage.atomic_file` leaves one in the result."""
    with work.open_work(out, KEY) as folder:
        (folder / "result/report.html").write_text("whole")
        (folder / "result/.partial-rejects.csv-123").write_text("ha")
    publish(out, KEY, "x")
    assert sorted(os.listdir(out)) == ["manifest.json", "report.html"]


def test_a_place_that_is_none_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    words = pytest.raises(ResumableError, match=r"^cannot write to [^\n]*/file: [^\n]*$")
    with words, work.open_work(tmp_path / "file/out", KEY):
        pass


@pytest.mark.slow  # starts two commands
def test_two_commands_at_once(image_folder, out):
    """The second ends with one line, and the first is not disturbed."""
    flags = [f"--source={image_folder}", f"--out={out}", "--workers=1", "--noreport"]
    family = processes.Family()

    def start():
        command = [sys.executable, "-m", "tfpipe.build_records", *flags]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=family.environment, **pipes)

    first = start()
    while first.poll() is None and not any(out.parent.glob(".partial-*/scan")):
        time.sleep(0.001)
    assert first.poll() is None, first.communicate()[1]
    os.kill(first.pid, signal.SIGSTOP)  # it goes on when the second is done
    second = start()
    _, stderr = second.communicate(timeout=60)
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    *_, line = stderr.splitlines()
    assert line.startswith("error: ")
    assert f"--out={out}: another build" in line
    _, stderr = first.communicate(timeout=60)
    assert first.returncode == 0, stderr
    assert os.listdir(out.parent) == ["out"]
    assert family.wait_for_end()
