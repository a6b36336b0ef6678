"""Every kind of damage in a records folder is found in the right shard."""

import json
import pathlib
import random
import re
import shutil

import pytest

from tfpipe import verify_records
from tfpipe.core.errors import UserError
from tfpipe.records import manifest, verify

SHARD = "train-00001-of-00003.tfrecord"


@pytest.fixture
def folder(records, tmp_path):
    return pathlib.Path(shutil.copytree(records, tmp_path / "toy"))


def frames(path):
    """Returns the offset at which each record starts, and the end."""
    content, offsets = path.read_bytes(), [0]
    while offsets[-1] < len(content):
        length = int.from_bytes(content[offsets[-1] : offsets[-1] + 8], "little")
        offsets.append(offsets[-1] + 8 + 4 + length + 4)
    return offsets


def damage(folder):
    return verify.find_damage(manifest.load(folder))


def test_a_whole_data_set(folder, capsys):
    verify_records.main(verify_records.Options(records=str(folder)))
    out, err = capsys.readouterr()
    assert re.fullmatch(r".*toy is whole: 6 shards, 80 records, 0\.\d MB verified\n", out)
    assert err == ""


def test_flipped_bytes_are_found_and_placed(folder):
    rng = random.Random(20)
    described = manifest.load(folder)
    for _ in range(20):
        shard = rng.choice(described.shards)
        path = folder / shard.name
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        record = sum(offset <= place for offset in frames(path)) - 1
        flipped = bytearray(whole)
        flipped[place] ^= rng.randrange(1, 256)
        path.write_bytes(flipped)
        (finding,) = verify.find_damage(described)
        path.write_bytes(whole)
        assert finding.name == shard.name
        assert f"record {record}, " in finding.problem
    assert verify.find_damage(described) == []


def test_a_cut_between_records(folder):
    path = folder / SHARD
    offsets = frames(path)
    path.write_bytes(path.read_bytes()[: offsets[-3]])
    (finding,) = damage(folder)
    count = len(offsets) - 1
    assert finding.name == SHARD
    assert f"{count - 2} records instead of {count}" in finding.problem


@pytest.mark.parametrize("more", [1, 11, 12, 200])
def test_a_cut_inside_a_record(folder, more):
    path = folder / SHARD
    offset = frames(path)[4]
    path.write_bytes(path.read_bytes()[: offset + more])
    (finding,) = damage(folder)
    assert finding.name == SHARD
    assert finding.problem.endswith(f"cut inside record 4, which starts at byte {offset}")


def test_other_damage(folder):
    shards = [folder / shard.name for shard in manifest.load(folder).shards]
    shards[0].write_bytes(b"")
    shards[1].unlink()
    shards[2].unlink()
    shards[2].mkdir()
    shards[3].write_bytes(shards[4].read_bytes())
    with open(shards[5], "ab") as file:
        file.write(b"more")
    (folder / "extra.tfrecord").write_bytes(b"")
    (folder / "rejects.csv").unlink()
    expected = [
        (shards[0].name, "empty, should have"),
        (shards[1].name, "No such file"),
        (shards[2].name, "not a regular file"),
        (shards[3].name, ""),
        (shards[5].name, "4 bytes follow the last record"),
        ("extra.tfrecord", "manifest.json does not list it"),
        ("rejects.csv", "missing"),
    ]
    found = damage(folder)
    assert [each.name for each in found] == [name for name, _ in expected]
    for each, (_, problem) in zip(found, expected, strict=True):
        assert problem in each.problem


def test_a_shard_of_another_data_set_is_told_apart(folder):
    """All checksums are right, so only SHA-256 shows the difference."""
    path = folder / SHARD
    content, offsets = path.read_bytes(), frames(path)
    path.write_bytes(content[offsets[1] :] + content[: offsets[1]])
    (finding,) = damage(folder)
    assert "another data set" in finding.problem


def test_counts_changed_so_that_they_agree_are_found_in_the_shard(folder):
    def change(m):
        m["shards"][1]["records"] += 1
        m["splits"]["train"]["cat"] += 1
        m["accepted"] += 1
        m["mean_record_bytes"] = sum(shard["bytes"] for shard in m["shards"]) / m["accepted"]

    edit(folder, change)
    (finding,) = damage(folder)
    assert finding.name == SHARD
    assert "manifest.json says" in finding.problem


def edit(folder, change):
    value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("name", ["a\0b", "..", "", "a\nb"])
def test_a_strange_shard_name_is_a_finding(folder, name):
    edit(folder, lambda m: m["shards"][1].update(name=name))
    assert [each.name for each in damage(folder)] == [name, SHARD]


def test_the_command_names_every_damaged_file(folder, capsys):
    (folder / "val-00002-of-00003.tfrecord").unlink()
    content = bytearray((folder / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / SHARD).write_bytes(content)
    with pytest.raises(UserError, match=rf"has 2 files .*first {SHARD} \(") as caught:
        verify_records.main(verify_records.Options(records=str(folder)))
    assert caught.value.status == 1
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith(f"{SHARD}: SHA-256 differs; record ")
    assert second == "val-00002-of-00003.tfrecord: No such file or directory"


def test_progress_counts_every_block(folder, monkeypatch):
    monkeypatch.setattr(verify, "BLOCK_BYTES", 1000)
    described = manifest.load(folder)
    calls = []
    assert verify.find_damage(described, lambda: calls.append(1)) == []
    assert len(calls) == sum(verify.blocks(shard) for shard in described.shards) > 6
