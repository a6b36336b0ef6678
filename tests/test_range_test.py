"""`--learning_rate=auto`: the rule, and that a training behind the test is as without it."""

import dataclasses

import numpy as np
import pytest

from tests import commands
from tests.refusals import refused
from tests.training import CACHED, check_same_run, log_of, save_backbone
from tfpipe import report, train
from tfpipe.core import keywords
from tfpipe.training import range_test
from tfpipe.training.train_config import TrainConfig


def test_the_smoothed_loss_is_a_weighted_mean_of_all_before():
    losses = np.random.default_rng(0).uniform(0.5, 0.7, 40) - np.linspace(0, 0.3, 40)
    found = range_test.smoothed(losses.tolist())
    for index, value in enumerate(found.losses):
        weights = 0.98 ** np.arange(index, -1, -1)
        assert value == pytest.approx(np.average(losses[: index + 1], weights=weights))
    assert found.rates[0] == pytest.approx(1e-7)
    assert found.rates[39] / found.rates[38] == pytest.approx(1e8 ** (1 / 99))


def test_a_tenth_of_the_rate_with_the_least_loss_is_chosen():
    falls = [1.0] * 10 + [0.1] * 60 + [50.0, 60.0, 70.0]
    found = range_test.smoothed(falls)
    assert found.chosen == pytest.approx(found.rates[69] / 10, rel=5e-3)
    assert len(found.losses) < len(falls)  # it ends where the loss is far above the least


@pytest.mark.parametrize("losses", [[0.7, 0.8, 0.9], [float("nan")], [0.7, float("inf")]])
def test_a_loss_that_never_falls_is_one_line(losses):
    with refused("the loss falls at no rate"):
        range_test.smoothed(losses)


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        (CACHED | {"optimizer": "momentum", "average": "ema(0.9)", "accumulate_steps": 2}, False),
        pytest.param(
            {"batch_norm": "trained", "head": "norm|dropout(0.5)", "schedule": "cosine"},
            True,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["head", "all"],
)
def test_a_training_behind_the_test_is_as_one_with_that_rate(
    tiny_config, tmp_path, capfd, changes, plain
):
    if plain:
        changes = changes | {"backbones": save_backbone(tmp_path), "pooling": "avg"}
    common = changes | {"epochs": 2}
    train.main(tiny_config(**common, learning_rate="auto", run_dir=str(tmp_path / "auto")))
    (test,) = range_test.load(tmp_path / "auto").values()
    assert f"learning_rate=auto: {test.chosen:g}" in capfd.readouterr().err
    train.main(tiny_config(**common, learning_rate=test.chosen, run_dir=str(tmp_path / "fixed")))
    check_same_run(tmp_path / "auto", tmp_path / "fixed", within=1e-6)


@pytest.mark.slow
def test_a_resumed_training_keeps_its_rate(tiny_config, tmp_path, monkeypatch):
    stages = "a:epochs=1;b:lr=auto"
    config = tiny_config(**CACHED | {"stages": stages, "epochs": 1})
    train.main(config)
    (label,) = tests = range_test.load(tmp_path / "run")
    assert label == "2-b"

    def again(*_, **__):
        raise AssertionError("the range test is repeated")

    monkeypatch.setattr(range_test, "measure", again)
    train.main(dataclasses.replace(config, epochs=3))
    rates = [float(row["learning_rate"]) for row in log_of(tmp_path / "run")]
    assert rates == pytest.approx([3e-3, *[tests["2-b"].chosen] * 3])
    report.main(report.Options(run_dir=str(tmp_path / "run"), pictures=0))
    assert (tmp_path / "run" / "plots" / "range_test.png").is_file()


def test_a_rate_of_the_backbones_is_refused_beside_it(tiny_config):
    with refused("backbone_learning_rate=1e-4.*auto"):
        train.main(tiny_config(learning_rate="auto", backbone_learning_rate="1e-4"))


def test_python_takes_the_word_too():
    given = {"learning_rate": "auto"}
    assert keywords.options(TrainConfig, "fit", given).learning_rate == "auto"
    with refused("learning_rate=fast.*a number or 'auto'"):
        keywords.options(TrainConfig, "fit", {"learning_rate": "fast"})


@pytest.mark.parametrize(
    "flag", ["--learning_rate=fast", "--learning_rate=nan", "--stages=a:lr=fast"]
)
def test_another_word_is_refused(flag, records, tmp_path):
    flags = [f"--records={records}", f"--run_dir={tmp_path / 'run'}", flag]
    done = commands.run(train.main, TrainConfig, *flags)
    commands.assert_one_error(done, "lr" if "stages" in flag else "learning_rate")
