"""`tfpipe.tune`: the space, the trials, resuming, and what a gain is worth."""

import csv
import dataclasses

import numpy as np
import optuna
import pytest
from conftest import TINY
from sklearn import metrics as sklearn_metrics

from tests import commands
from tests.refusals import refused
from tests.training import CACHED
from tfpipe import train, tune
from tfpipe.evaluation.metrics import LabeledPredictions
from tfpipe.runs import predictions_file, trainer
from tfpipe.search import space, verdict
from tfpipe.search.study import STORAGE, Study
from tfpipe.training.train_config import TrainConfig

SPACE = "lr=log(1e-3,1e-1);head=dropout(uniform(0,0.5)),norm"


@pytest.fixture
def options(records, tmp_path):
    """Returns a function from changed options to those of a search whose trials take seconds."""

    def make(**changes):
        own = {"records": str(records), "run_dir": str(tmp_path / "search"), "space": SPACE}
        return tune.Options(**{**TINY, **CACHED, "tta": "", "epochs": 2, **own, **changes})

    return make


def rows_of(folder):
    with open(folder / "trials.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("text", "drawn", "expected"),
    [
        ("lr=log(1e-4,1e-1)", {"learning_rate 1.1": 0.0123456}, {"learning_rate": "0.01235"}),
        (
            "head=norm,dense(int(8,64))|dropout(uniform(0,0.5))",
            {
                "head": "dense(int(8,64))|dropout(uniform(0,0.5))",
                "head 2.1": 16,
                "head 2.2": 0.25,
            },
            {"head": "dense(16)|dropout(0.25)"},
        ),
        (
            "backbones=mobilenet,(mobilenet,xception); weight_decay=0,log(1e-4,1)",
            {"backbones": "mobilenet,xception", "weight_decay": "0"},
            {"backbones": "mobilenet,xception", "weight_decay": "0"},
        ),
        (
            "stages=head,(head:epochs=2;all:from=all,lr=1e-5)",
            {"stages": "head:epochs=2;all:from=all,lr=1e-5"},
            {"stages": "head:epochs=2;all:from=all,lr=1e-5"},
        ),
    ],
)
def test_a_space_draws_texts(text, drawn, expected):
    found = space.parse(text, TrainConfig()).draw(optuna.trial.FixedTrial(drawn))
    assert found == expected
    space.with_options(TrainConfig(), found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate=log(1,2)", "rate"),
        ("lr", "lr"),
        ("lr=log(1,x)", "two numbers"),
        ("lr=log(0,1)", "above 0"),
        ("lr=uniform(2,1)", "lower one first"),
        ("batch_size=int(8,16.5)", "whole"),
        ("batch_size=many,8", "whole number"),
        ("batch_norm=frozen,thawed", "thawed"),
        ("lr=1e-3", "nothing to draw"),
        ("lr=1e-3,1e-3", "twice"),
        ("lr=1,2;learning_rate=3,4", "twice"),
        ("records=a,b", "stays the same"),
        ("val_split=val,test", "stays the same"),
        ("drop_path=0.1,much", "number"),
        ("drop_path=uniform(0,2)", "at most 0.99"),
        ("patience=int(-1,5)", "at least 0"),
    ],
)
def test_a_wrong_space_is_refused(text, words):
    with refused(words):
        space.parse(text, TrainConfig())


def test_an_empty_value_is_the_default_of_an_option_that_has_none():
    found = space.parse("drop_path=,0.2;seed=int(0,1000000)", TrainConfig())
    drawn = found.draw(optuna.trial.FixedTrial({"drop_path": "", "seed 1.1": 7}))
    assert space.with_options(TrainConfig(drop_path=0.1), drawn).drop_path is None
    assert space.with_options(TrainConfig(), {"drop_path": "0.2"}).drop_path == 0.2


def test_trials_on_other_images_than_the_base_are_refused():
    with refused("seed .* `limit=50`"):
        space.parse("seed=1,2", TrainConfig(limit=50))
    space.parse("seed=1,2", TrainConfig())


def test_an_option_that_every_stage_sets_itself_is_refused():
    base = TrainConfig(stages="a:lr=1e-3;b:from=all,lr=1e-5")
    with refused("changes nothing"):
        space.parse("lr=log(1e-5,1e-3)", base)
    space.parse("lr=log(1e-5,1e-3)", TrainConfig(stages="a:lr=1e-3;b:from=all"))
    space.parse("lr=log(1e-5,1e-3);stages=a,(b:from=all)", base)


def test_the_default_space_is_one():
    assert "head" in space.parse("", TrainConfig()).options


def predictions(errors, n=400):
    """Predictions of two classes; their mean loss is 0.5 minus `errors` standard errors."""
    spread = 0.2
    sign = np.where(np.arange(n) // 2 % 2, 1, -1)
    losses = 0.5 + spread * sign * (errors is not None) - spread / np.sqrt(n) * (errors or 0.0)
    labels, right = np.arange(n) % 2, np.exp(-losses)
    second = np.where(labels, right, 1 - right)
    return LabeledPredictions(np.stack([1 - second, second], 1).astype(np.float32), labels)


@pytest.mark.parametrize(
    ("errors", "tried", "word"),
    [
        (8.0, 20, "real"),
        (2.8, 1, "real"),
        (2.8, 100, "noise"),
        (0.5, 1, "noise"),
        (-8.0, 1, "no gain"),
    ],
)
def test_a_gain_counts_only_beyond_the_luck_of_the_best_of_many(errors, tried, word):
    best, base = predictions(errors), predictions(None)
    found = verdict.sentence(best, base, name="it", metric="log_loss", tried=tried)
    assert word in found
    assert f"best of {tried}" in found


@pytest.mark.slow
def test_a_search_ends_in_a_flagfile_that_trains_to_its_figure(options, tmp_path, capsys):
    folder = tmp_path / "search"
    tune.main(options(trials=2))
    shown = capsys.readouterr().out
    assert "trials" in shown
    base, *trials = rows_of(folder)
    assert len(trials) == 2
    assert len(list((folder / "features").iterdir())) == 2  # training and validation images
    best = min([base, *trials], key=lambda row: float(row["log_loss"]))
    run = tmp_path / "again"
    flags = [f"--flagfile={folder / 'best.flags'}", f"--records={options().records}"]
    done = commands.run(train.main, TrainConfig, *flags, f"--run_dir={run}")
    assert done.returncode == 0, done.stderr
    found = predictions_file.read(run / "predictions.csv")
    loss = sklearn_metrics.log_loss(found["label"], found["probabilities"].astype(np.float64))
    assert float(best["log_loss"]) == pytest.approx(loss, abs=1e-5)
    for row in trials:
        difference = float(row["log_loss"]) - float(base["log_loss"])
        assert float(row["difference"]) == pytest.approx(difference, abs=1e-6)


@pytest.mark.slow
def test_what_is_found_on_some_of_the_images_trains_on_all(options, tmp_path, capsys):
    tune.main(options(trials=1, limit=20))
    found = (tmp_path / "search" / "best.flags").read_text()
    assert "20 images" in found
    assert "--limit" not in found


@pytest.mark.slow
def test_an_interrupted_search_continues_as_if_it_had_not_been(options, tmp_path, monkeypatch):
    own = options(trials=2)
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    base = TrainConfig(**{name: getattr(own, name) for name in names})
    (tmp_path / "other").mkdir()
    alone = Study(tmp_path / "other", space.parse(SPACE, base), higher_is_better=False, seed=0)
    _, first = alone.begin()
    calls, real = [], trainer.train

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(trainer, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune.main(own)
    tune.main(own)
    rows = rows_of(tmp_path / "search")
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {name: rows[1][name] for name in first} == first
    with refused("another space"):
        tune.main(dataclasses.replace(own, space="lr=1e-3,1e-2"))
    with refused("seed=0"):
        tune.main(dataclasses.replace(own, seed=1))
    tune.main(dataclasses.replace(own, minutes=1e-9, trials=9))
    assert len(rows_of(tmp_path / "search")) == 3


@pytest.mark.slow
def test_a_trial_that_cannot_be_trained_is_listed(options, tmp_path, capsys):
    tune.main(options(trials=3, space="head=dense(0.5),dense(0.25)"))
    _, *rows = rows_of(tmp_path / "search")
    assert all("whole number" in row["error"] for row in rows)
    assert "3 of 3 trials failed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["records", "run_dir"])
def test_a_search_needs_records_and_a_folder(options, name):
    with refused(f"--{name} is missing"):
        tune.main(options(**{name: ""}))


def test_a_search_wants_a_folder_of_its_own(options, tmp_path):
    mine = tmp_path / "search" / "trial-1" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with refused("holds no search but other files, as trial-1"):
        tune.main(options())
    assert mine.exists()


def test_a_damaged_study_is_one_line(tmp_path):
    (tmp_path / STORAGE).write_text("no database" * 100)
    with refused("not the storage of a search"):
        Study(tmp_path, space.parse(SPACE, TrainConfig()), higher_is_better=False, seed=0)
