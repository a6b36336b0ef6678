"""The script for machines with a GPU, whole on the CPU, and with bounds that nothing keeps."""

import json

import numpy as np
import pytest

from tests.refusals import refused
from tools import check_gpu
from tools.check_gpu import FAILED, MEASURED, NOT_POSSIBLE, OK, CheckResult


def run(tmp_path, only=""):
    path = tmp_path / "checks.json"
    status = check_gpu.main(check_gpu.Options(json=str(path), only=only, minutes=30))
    rows = json.loads(path.read_text())["checks"]
    return status, {row["name"]: row for row in rows}


@pytest.mark.large
@pytest.mark.timeout(600)
def test_the_whole_script_on_the_cpu(tmp_path, capsys):
    status, rows = run(tmp_path)
    assert status == 0, rows
    found = {name: row["verdict"] for name, row in rows.items()}
    of = {verdict: [n for n, v in found.items() if v == verdict] for verdict in found.values()}
    assert set(of) == {OK, NOT_POSSIBLE, MEASURED}
    assert {name.split(":")[0] for name in of[OK]} == {
        *("device", "augment", "batches", "precision", "xla", "export")
    }
    told = " ".join(of[NOT_POSSIBLE])
    assert all(word in told for word in ("mixed_float16", "overlap", "tf32"))
    assert len(of[MEASURED]) == 4
    assert all(0 <= rows[name]["value"] <= 1 for name in of[MEASURED])
    printed = capsys.readouterr().out
    assert all(name[:20] in printed for name in rows)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_beyond_its_bound_or_ends_by_an_error_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(check_gpu.BOUNDS, "augment", -1.0)
    status, rows = run(tmp_path, "device,augmentation")
    assert status == 1
    verdicts = {name.split(":")[0]: row["verdict"] for name, row in rows.items()}
    assert verdicts == {"device": OK, "augment": FAILED}
    monkeypatch.setattr(check_gpu, "AUGMENTS", {"unknown": "nothing(1)"})
    status, rows = run(tmp_path, "augmentation")
    assert status == 1
    assert rows["augmentation"]["detail"].startswith("UserError")


@pytest.mark.parametrize(
    ("value", "most", "verdict"),
    [
        *((0.1, 0.1, OK), (0.2, 0.1, FAILED), (np.nan, 0.1, FAILED), (np.inf, 0.1, FAILED)),
        *((None, 0.1, NOT_POSSIBLE), (0.9, None, MEASURED)),
    ],
)
def test_verdicts(value, most, verdict):
    assert CheckResult("x", value, most).verdict == verdict


def test_an_unknown_check_is_refused():
    with refused("everything is none of device, augmentation") as error:
        check_gpu.main(check_gpu.Options(only="everything"))
    assert error.value.status == 2
