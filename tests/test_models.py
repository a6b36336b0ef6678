"""The list of backbones, with their size and speed."""

import pytest

from tests import commands
from tfpipe import models
from tfpipe.model.backbones import backbones


def test_all_names_are_listed():
    printed = commands.run(models.main, models.Options).stdout
    assert set(backbones) <= set(printed.split())


@pytest.mark.slow
def test_those_that_match_are_built_and_measured():
    printed = commands.run(models.main, models.Options, "small_c*", "--batch_size=1").stdout
    (row,) = [line.split() for line in printed.splitlines() if "small_cnn" in line]
    weights = sum((9 * inputs + 1) * filters for inputs, filters in [(3, 32), (32, 32), (32, 64)])
    assert row[1:4] == ["150", "64", f"{weights:,}"]
    assert float(row[4]) > 0


def test_an_unknown_name_is_one_line():
    commands.assert_one_error(commands.run(models.main, models.Options, "mobilnet"), "mobilenetv2")
