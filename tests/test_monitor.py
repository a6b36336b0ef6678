"""`--monitor`: the measure that chooses the best epoch."""

import json

import numpy as np
import pytest
import sklearn.metrics

from tests.refusals import refused
from tests.training import CACHED, log_of
from tfpipe import evaluate, train
from tfpipe.training import log, monitor
from tfpipe.training.train_config import TrainConfig
from tfpipe.training.train_state import TrainState


@pytest.mark.slow
def test_the_best_epoch_has_the_best_of_what_is_monitored(tiny_config, tmp_path):
    """Its weights have that value when they are evaluated, and no other epoch a better one."""
    config = tiny_config(**CACHED | {"epochs": 6}, monitor="roc_auc", patience=9)
    train.main(config)
    epochs = log.read(tmp_path / "run")
    best = log.best(epochs)
    areas = [-epoch.cost for epoch in epochs]
    assert -best.cost == max(areas) > 0.5
    evaluate.main(evaluate.Options(run_dir=config.run_dir))
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    area = found.get("measures", found).get("roc_auc", found.get("roc_auc"))
    assert area == pytest.approx(max(areas), abs=1e-6)
    assert all("cost" in row for row in log_of(tmp_path / "run"))


def test_a_metric_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    second = rng.uniform(size=50).astype(np.float32)
    chosen = monitor.build(TrainConfig(records="r", run_dir="d", monitor="roc_auc"))
    found = chosen.of(1.0, np.stack([1 - second, second], 1), labels)
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(labels, second))
    assert chosen.cost(found) == -found
    plain = monitor.build(TrainConfig(records="r", run_dir="d"))
    assert plain.cost(plain.of(0.25, None, None)) == 0.25
    with refused("monitor=roc_auc.* undefined .*images of two classes"):
        chosen.of(1.0, np.stack([1 - second, second], 1), labels * 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor": "acc"}, "monitor=acc.* is no measure.*val_loss.*accuracy"),
        ({"monitor": "top_5_accuracy"}, "monitor=top_5_accuracy.* is no measure"),
        ({"min_delta": -1.0}, "min_delta=-1"),
        ({"min_delta": float("nan")}, "min_delta=nan"),
    ],
)
def test_wrong_options_are_explained(tiny_config, changes, message):
    with refused(message):
        train.main(tiny_config(**changes))


def test_small_gains_are_kept_but_do_not_count_for_patience():
    """As Keras' EarlyStopping with min_delta; a checkpoint of an older version is read too."""
    state = TrainState()
    state.begin_stage(0)
    for cost in (5, 4.95, 4.9, 4.85):
        assert not state.finished(9, 3)
        best, _ = state.add(cost, 0.5, cost, 0.2)
        assert best
    assert state.finished(9, 3)
    old = {"stage": 1, "epoch": 4, "stage_best_epoch": 2, "stage_best_loss": 0.5, "best_loss": 0.4}
    found = TrainState.from_json(json.dumps(old))
    assert (found.stage_best_cost, found.improved_cost, found.improved_epoch) == (0.5, 0.5, 2)
    assert (found.best_cost, found.best_loss) == (0.4, 0.4)
