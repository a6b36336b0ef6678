"""Memory and cores as control groups limit them: containers, services, batch jobs."""

import os
import pathlib

import pytest

from tests.conftest import ROOT
from tfpipe.core import control_group, memory
from tfpipe.core.cores import cores

GB = 10**9


@pytest.fixture
def group(tmp_path):
    """Returns a function that writes files of control groups, given by path and text."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("listing", "version", "expected"),
    [
        ("0::/", 2, ["."]),
        ("0::/a/b", 2, ["a/b", "a", "."]),
        ("0::/a/gone", 2, ["a", "."]),  # in a container: the path is that of the machine
        ("0::/../../outside", 2, ["."]),
        ("4:memory:/a\n1:cpu,cpuacct:/a/b", 1, ["memory/a", "memory"]),
        ("4:memory:/docker/0123\n0::/", 1, ["memory", "."]),
        ("1:name=systemd:/a\n1:cpuset:/a", 2, []),
    ],
)
def test_the_groups_of_a_process(tmp_path, listing, version, expected):
    root, of_process = tmp_path / "cgroup", tmp_path / "self"
    (root / ("memory/a" if version == 1 else "a/b")).mkdir(parents=True)
    of_process.write_text(listing + "\n")
    found = control_group.folders("memory", root, of_process)
    assert found == [root / each for each in expected]


def test_no_groups_where_linux_has_none(tmp_path):
    assert control_group.folders("memory", of_process=tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("files", "free"),
    [
        # cgroups(7), "memory.current" and "memory.stat": 6 GB used, 4.5 of them page cache.
        (
            {
                "memory.max": f"{8 * GB}",
                "memory.current": f"{6 * GB}",
                "memory.stat": f"anon {GB}\nfile {4 * GB}\ninactive_anon 7\nactive_anon {GB}\n"
                f"inactive_file {4 * GB}\nactive_file {GB // 2}",
            },
            6.5 * GB,
        ),
        ({"memory.max": "max", "memory.current": f"{6 * GB}"}, None),
        ({"memory.max": f"{GB}", "memory.current": f"{2 * GB}"}, 0),
        # Version 1: "total_" includes inner groups.
        (
            {
                "memory/memory.limit_in_bytes": f"{8 * GB}",
                "memory/memory.usage_in_bytes": f"{7 * GB}",
                "memory/memory.stat": f"inactive_file 5\nactive_file 5\ntotal_cache {5 * GB}\n"
                f"total_inactive_file {2 * GB}\ntotal_active_file {3 * GB}",
            },
            6 * GB,
        ),
        ({"memory/memory.limit_in_bytes": f"{2**63 - 4096}"}, None),
    ],
)
def test_page_cache_is_free_memory(group, tmp_path, files, free):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 90000000 kB\nMemAvailable: 50000000 kB\n")
    machine = 50_000_000 * 1024
    assert memory.free_memory(group(files), meminfo) == (machine if free is None else free)
    assert memory.free_memory(group(files), tmp_path / "none") == free


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "200000 50000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({}, None),
    ],
)
@pytest.mark.parametrize("affinity", [1, 3, 64])
def test_cores_are_the_least_of_affinity_and_quota(group, monkeypatch, files, quota, affinity):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    assert cores(group(files)) == min(affinity, quota or affinity)


def test_nothing_else_counts_cores():
    """`os.cpu_count` knows neither affinity nor quota."""
    users = [
        str(path.relative_to(ROOT))
        for folder in ("tfpipe", "serving")
        for path in pathlib.Path(ROOT / folder).glob("**/*.py")
        if any(name in path.read_text() for name in ("cpu_count", "sched_getaffinity"))
    ]
    assert users == ["tfpipe/core/cores.py"]
