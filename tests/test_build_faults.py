"""What a build survives: kills, crashed workers, bombs, full and read-only disks, odd files.

The result is compared byte for byte with that of an uninterrupted build. Most tests start the
command to kill it, so they are slow.
"""

import contextlib
import csv
import os
import pathlib
import random
import shlex
import signal
import struct
import subprocess
import sys
import time
import zlib

import commands
import numpy as np
import PIL.Image
import processes
import pytest
from pictures import add_scans, exif, png, save

from tfpipe import build_records
from tfpipe.records import example, manifest, tfrecord, verify

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SEED = 20  # of the random points

# Of resident memory: a worker's 512 MiB, and 100 MB of program code and libraries.
MEGABYTES = 640


class Command:
    """A build that runs."""

    def __init__(self, *flags):
        self.family = processes.Family()
        environment = {**self.family.environment, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfpipe.build_records", *map(str, flags)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,  # a few lines, which a pipe holds until `finish`
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )

    def finish(self):
        """Returns the exit status and what was said."""
        _, stderr = self.process.communicate(timeout=240)
        return self.process.returncode, stderr.decode()

    def kill(self, group):
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        self.finish()


def run(*flags):
    return Command(*flags).finish()


def contents(folder):
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def picture(number, height=64, width=64):
    rng = np.random.default_rng(number)
    return PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def make_images(folder, count=200):
    """Writes that many cats and dogs; some are to be converted, are twice there, or damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("cat", "dog"):
        for i in range(count):
            path = folder / f"{kind}.{i}.{'gif' if i % 10 == 3 else 'jpg'}"
            image = picture([i - (i % 20 == 7), *kind.encode()])
            image.save(path, **({"exif": exif(6)} if i % 10 == 4 else {}))
    data = (folder / "cat.1.jpg").read_bytes()
    (folder / "cat.9999.jpg").write_bytes(data[: len(data) // 2])
    return folder


def in_folders(folder, count):
    """Writes that many good cats and dogs, labelled by their folder."""
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            picture([i, *kind.encode()]).save(folder / kind / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("in") / "images")


FLAGS = ("--workers=2", "--max_rejects=1", "--noreport")


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What an uninterrupted build writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    status, stderr = run(f"--source={source}", f"--out={out}", *FLAGS)
    assert status == 0, stderr
    return contents(out)


def assert_absent_or_complete(out):
    """Returns whether it is there."""
    if out.exists():
        assert verify.find_damage(manifest.load(out)) == []
        return True
    return False


def assert_resumes(out, flags, whole):
    """Gives the command again; returns what it says."""
    status, stderr = run(*flags)
    assert status == 0, stderr
    assert contents(out) == whole
    assert os.listdir(out.parent) == [out.name]
    return stderr


# What is there when the build is killed, in the order in which it comes to be.
PHASES = [
    "scan/*.jsonl",
    "shards/*.tfrecord",
    "result/*.tfrecord",
    "result/manifest.json",
]


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_each_phase_it_resumes(source, whole, tmp_path, phase):
    out = tmp_path / "out"
    flags = (f"--source={source}", f"--out={out}", *FLAGS)
    build = Command(*flags)
    while build.process.poll() is None and not any(tmp_path.glob(f".partial-out-*/{phase}")):
        time.sleep(0.001)
    build.kill(group=PHASES.index(phase) % 2)
    assert build.family.wait_for_end()  # workers that lost their parent, too
    if not assert_absent_or_complete(out):
        (work,) = tmp_path.iterdir()
        assert any(work.glob("scan/*.jsonl"))
        assert "resuming in" in assert_resumes(out, flags, whole)


@pytest.mark.large
def test_killed_at_20_random_points_it_resumes(tmp_path):
    points = 20
    originals = SHARED / "data/dogs-vs-cats/train.zip"
    source = originals if originals.is_file() else make_images(tmp_path / "in", 2000)
    flags = (f"--source={source}", "--workers=2", "--max_rejects=1")
    start = time.monotonic()
    status, stderr = run(*flags, f"--out={tmp_path}/whole/out")
    duration = time.monotonic() - start
    assert status == 0, stderr
    whole = contents(tmp_path / "whole/out")
    rng = random.Random(SEED)
    resumed = 0
    for point in range(points):
        out = tmp_path / str(point) / "out"
        delay = duration * (point + rng.random()) / points
        build = Command(*flags, f"--out={out}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            build.process.wait(delay)
        build.kill(group=point % 2)
        assert build.family.wait_for_end()
        there = assert_absent_or_complete(out)
        done = any(out.parent.glob(".partial-*/*/*"))
        said = assert_resumes(out, (*flags, f"--out={out}"), whole)
        assert "resuming in" in said or there or not done
        resumed += done and not there
    assert resumed >= points / 4


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(source, whole, tmp_path):
    out = tmp_path / "out"
    build = Command(f"--source={source}", f"--out={out}", *FLAGS)
    killed = 0
    while build.process.poll() is None:
        if killed < 3 and len(list(tmp_path.glob(".partial-out-*/*/*"))) > 2 * killed:
            for pid in build.family.workers()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        time.sleep(0.005)
    status, stderr = build.finish()
    # A piece of a shard cannot be done without, but it can be done again.
    if status == 1:
        assert "run the command again" in stderr
        assert_resumes(out, (f"--source={source}", f"--out={out}", *FLAGS), whole)
    else:
        assert (status, killed > 0) == (0, True), stderr
    assert contents(out) == whole
    assert build.family.wait_for_end()


def watch(build):
    """Waits for a build's end; returns its status, what it says, and a worker's peak memory."""
    peak = 0
    while build.process.poll() is None:
        peak = max(peak, build.family.peak_megabytes())
        time.sleep(0.01)
    return *build.finish(), peak


def records(folder):
    """Returns the name of each image, and what is stored of it."""
    found = {}
    for shard in manifest.load(folder).shards:
        with open(folder / shard.name, "rb") as file:
            for _, record in tfrecord.read(file):
                parsed = example.Example.FromString(record).features.feature
                name = parsed["image/filename"].bytes_list.value[0]
                found[os.fsdecode(name)] = parsed["image/encoded"].bytes_list.value[0]
    return found


def rejects(folder):
    with open(folder / "rejects.csv", encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def deflated(megabytes):
    """Returns so many zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(10**6)) for _ in range(megabytes)), packer.flush()])


def bombs():
    """Returns files, small ones mostly, that want much memory or time, and what becomes of each."""
    dot = zlib.compress(b"\0\0\0\0")
    zeros = deflated(200)
    gif = save(picture(2).quantize(), "GIF")
    webp = b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff\x3f\0\xff\x3f\0"  # 16,384 x 16,384
    bmp = struct.pack(
        "<2sIIIIiiHHIIiiII", b"BM", 60_000_054, 0, 54, 40, 5000, 4000, 1, 24, *[0] * 6
    )
    black = PIL.Image.new("RGB", (9400, 9400))
    return {
        "header.png": (png(30_000, 30_000, 8, 2, [], compressed=dot), {"too many pixels"}),
        "bits.png": (png(30_000, 30_000, 1, 0, [], compressed=deflated(113)), {"too many pixels"}),
        "text.png": (png(1, 1, 8, 2, [bytes(3)], (b"zTXt", b"k\0\0" + zeros)), None),
        "profile.png": (png(1, 1, 8, 2, [bytes(3)], (b"iCCP", b"k\0\0" + zeros)), None),
        "excess.png": (png(1, 1, 8, 2, [], compressed=zeros), {"damaged"}),
        "canvas.gif": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], {"too many pixels"}),
        "canvas.webp": (
            b"RIFF" + struct.pack("<I", len(webp)) + webp,
            {"damaged", "too many pixels"},
        ),
        "scans.jpg": (
            add_scans(save(PIL.Image.new("L", (1024, 1024)), "JPEG", progressive=True), 883),
            {"too many scans"},
        ),
        "zeros.bmp": (bmp + bytes(60_000_000), None),
        "zeros.png": (save(black, "PNG"), None),
        "zeros.jpg": (save(black, "JPEG", progressive=True), None),
    }


@pytest.mark.slow
def test_bombs_in_bounds(tmp_path):
    source = in_folders(tmp_path / "in", 6)
    made = bombs()
    for number, (name, (data, _)) in enumerate(made.items()):
        (source / f"{'cat' if number % 2 else 'dog'}/{name}").write_bytes(data)
    out = tmp_path / "out"
    build = Command(f"--source={source}", f"--out={out}", "--duplicates=keep", *FLAGS)
    status, stderr, peak = watch(build)
    assert status == 3, stderr
    rejected = {pathlib.Path(path).name: reason for path, reason in rejects(out).items()}
    accepted = {pathlib.Path(name).name for name in records(out)}
    for name, (_, reasons) in made.items():
        if reasons is None:
            assert rejected.get(name) != "crash", name
            assert (name in accepted) != (name in rejected), name
        else:
            assert rejected[name] in reasons, name
    assert len(records(out)) == 12 + len(accepted & made.keys())
    assert peak < MEGABYTES


def mount_allowed():
    """Returns whether file systems may be mounted here, in a name space of one's own."""
    try:
        return not subprocess.run(
            ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True
        ).returncode
    except OSError:
        return False


def in_own_mounts(script, **variables):
    """Runs a shell script whose mounts only it sees; returns what it prints."""
    if not mount_allowed():
        pytest.skip("needs `unshare` and `mount`, which are not allowed here")
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in variables.items()]
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", "\n".join(["set -eu", *lines, script])],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "2m"])
def test_a_full_disk_then_room_again(source, whole, tmp_path, size):
    """Full during the scan, and while shards are written."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = [sys.executable, "-m", "tfpipe.build_records", f"--source={source}", *FLAGS]
    printed = in_own_mounts(
        """
        mount -t tmpfs -o size=$SIZE tmpfs $DISK
        $COMMAND --out=$DISK/out 2>&1 >/dev/null && exit 1
        echo "status $?"; ls -a $DISK
        mount -o remount,size=64m $DISK
        $COMMAND --out=$DISK/out 2>&1 >/dev/null
        ls -a $DISK; cp -r $DISK/out $KEPT
        """.replace("$COMMAND", shlex.join(command)),
        SIZE=size,
        DISK=disk,
        KEPT=kept,
    )
    first, second = printed.split("resuming in")
    understood = ("labels:", "splits:", "duplicates:")
    lines = [line for line in first.splitlines() if not line.startswith(understood)]
    assert "the same command resumes from there" in lines[0]
    assert lines[1].startswith("error: cannot write ")
    assert "No space left on device" in lines[1]
    assert lines[2:5] == ["status 1", ".", ".."]
    assert [name[:13] for name in lines[5:]] == [".partial-out-"]
    assert second.split()[-3:] == [".", "..", "out"]
    assert contents(kept) == whole


@pytest.mark.slow
def test_a_read_only_target_is_one_line(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "tfpipe.build_records", f"--source={source}", *FLAGS]
    printed = in_own_mounts(
        """
        mount -t tmpfs -o ro tmpfs $DISK
        $COMMAND --out=$DISK/deep/out 2>&1 && exit 1
        echo "status $?"
        """.replace("$COMMAND", shlex.join(command)),
        DISK=disk,
    )
    error, status = printed.splitlines()
    assert status == "status 1"
    assert error.startswith(f"error: --out={disk}/deep/out: nothing can be written to {disk}")


def test_odd_files_are_reported_and_nothing_else(tmp_path):
    """Through the command; tests/test_sources.py looks at each kind."""
    source = in_folders(tmp_path / "in", 8)
    (source / "loop").symlink_to("loop")
    (source / "cat/up").symlink_to("..")
    (source / "cat/dangling.jpg").symlink_to("nowhere")
    os.mkfifo(source / "dog/fifo.jpg")
    (source / "dog/x.jpg").mkdir()
    (source / "dog/x.jpg/notes.txt").write_bytes(b"")
    (source / "cat/-rf").write_bytes(b"")
    good = (source / "cat/1.jpg").read_bytes()
    odd = ["a\nb.jpg", "\"'.jpg", "-rf.jpg", "\x1b[31m.jpg", "\udcff.jpg"]
    for name in odd:
        (source / "cat" / f"good {name}").write_bytes(good)
        (source / "dog" / f"bad {name}").write_bytes(good[:99])
    done = commands.run(
        build_records.main, build_records.Options, "--source=in", "--out=-out", *FLAGS, cwd=tmp_path
    )
    assert done.returncode == 3, done.stderr
    assert all(line.isprintable() for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) <= 7
    listed = {
        path.removeprefix("in/"): reason for path, reason in rejects(tmp_path / "-out").items()
    }
    assert listed == {
        "cat/-rf": "not an image name",
        "cat/dangling.jpg": "symlink",
        "cat/up": "symlink",
        "dog/bad \"'.jpg": "damaged",
        "dog/bad -rf.jpg": "damaged",
        "dog/bad \\udcff.jpg": "damaged",
        "dog/bad \\x1b[31m.jpg": "damaged",
        "dog/bad a\\nb.jpg": "damaged",
        "dog/fifo.jpg": "special file",
        "dog/x.jpg/notes.txt": "not an image name",
        "loop": "symlink",
    }
    named = records(tmp_path / "-out")
    assert {name for name in named if "good" in name} == {f"cat/good {name}" for name in odd}
    assert len(named) == 16 + len(odd)
