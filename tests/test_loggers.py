"""`--log`: where the results of each epoch go, and that a resumed training continues there."""

import dataclasses
import json
import pathlib
import sys
import types

import pytest

from tests.refusals import refused
from tests.training import CACHED, log_of
from tfpipe import export, report, train
from tfpipe.core.errors import UserError
from tfpipe.training import loggers, mlflow_logger, tensorboard_logger
from tfpipe.training.run_folder import RunFolder


@pytest.fixture
def config(tiny_config):
    """The options of a run of two epochs on cached features, logged somewhere."""
    return lambda log, **changes: tiny_config(**{**CACHED, "epochs": 2, "log": log, **changes})


def test_csv_alone_writes_no_events(config, tmp_path):
    train.main(config("csv"))
    assert len(log_of(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("csv,tensorbord", "tensorbord.*csv, mlflow, tensorboard, wandb"),
        ("mlflow", r"mlflow is not installed: pip install 'tfpipe\[mlflow\]'"),
        ("wandb", r"wandb is not installed: pip install 'tfpipe\[wandb\]'"),
    ],
)
def test_what_cannot_be_logged_to_is_found_before_the_training(
    config, tmp_path, monkeypatch, log, words
):
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with refused(words):
        train.main(config(log))
    assert not (tmp_path / "run").exists()


def test_every_logger_is_registered_and_documented():
    help_text = train.TrainConfig.__dataclass_fields__["log"].metadata["help"]
    assert all(name in help_text for name in loggers.loggers)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A local store of MLflow, and a client of it."""
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "toys")
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_experiment("toys", artifact_location=(tmp_path / "artifacts").as_uri())
    return client


def runs_of(store):
    return store.search_runs([store.get_experiment_by_name("toys").experiment_id])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_resumed_training_continues_its_run_of_mlflow(config, store, tmp_path, monkeypatch):
    train.main(config("mlflow"))
    (first,) = runs_of(store)
    assert first.info.status == "FINISHED"
    assert first.data.params["head"] == CACHED["head"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    train.main(config("mlflow", epochs=3))
    (again,) = runs_of(store)
    assert again.info.run_id == first.info.run_id
    rows = log_of(tmp_path / "run")
    for name in ("val_loss", "learning_rate", "seconds"):
        logged = store.get_metric_history(first.info.run_id, name)
        assert [each.step for each in logged] == [1, 2, 3]
        assert [each.value for each in logged] == pytest.approx([float(r[name]) for r in rows])
    run_dir = str(tmp_path / "run")
    report.main(report.Options(run_dir=run_dir, pictures=0))
    export.main(export.Options(run_dir=run_dir, export_dir=str(tmp_path / "e"), check_images=0))
    kept = {each.path for each in store.list_artifacts(first.info.run_id)}
    assert kept == {"report.html", "model_card.md", "model_card.json"}
    local = pathlib.Path(store.download_artifacts(first.info.run_id, "report.html", str(tmp_path)))
    assert local.read_bytes() == (tmp_path / "run" / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("https://me:secret@host:5000/x", "https://host:5000/x"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("/some/folder", "/some/folder"),
    ],
)
def test_a_password_is_not_kept_in_the_run_folder(config, tmp_path, monkeypatch, uri, kept):
    mlflow = pytest.importorskip("mlflow")

    class Client:
        def __init__(self, tracking_uri):
            assert tracking_uri == uri

        def __getattr__(self, name):
            return lambda *arguments, **more: Client(uri)

        info = type("Info", (), {"run_id": "7"})

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    folder = tmp_path / "run"
    folder.mkdir()
    run = RunFolder(folder, config("mlflow"), types.SimpleNamespace(classes=("a", "b")))
    mlflow_logger.MlflowLogger(run, 0)
    saved = json.loads((folder / mlflow_logger.FILE).read_text())
    assert saved == {"tracking_uri": kept, "run_id": "7"}
    mlflow_logger.MlflowLogger(run, 1)  # opens it again with the password


@pytest.mark.slow
def test_an_interrupted_training_ends_its_run_of_mlflow(config, store, monkeypatch, capfd):
    def interrupted(self, epoch):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_logger.MlflowLogger, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main(config("mlflow"))
    (run,) = runs_of(store)
    assert run.info.status == "KILLED"


def test_a_logger_that_fails_to_open_ends_those_before_it(config, store, monkeypatch):
    def away(*_):
        raise UserError("no such place")

    monkeypatch.setattr(tensorboard_logger.TensorBoardLogger, "__init__", away)
    with refused("no such place"):
        train.main(config("mlflow,tensorboard"))
    (run,) = runs_of(store)
    assert run.info.status == "KILLED"


def test_a_store_that_is_away_is_one_line(config, store, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'store.db'}")
    with refused("MLflow does not open its run.*MLFLOW_TRACKING_URI"):
        train.main(config("mlflow"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wandb_offline_keeps_one_id(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    base = config("csv,wandb", epochs=1)
    train.main(base)
    train.main(dataclasses.replace(base, epochs=2))
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert folders
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    assert all(list(folder.glob("*.wandb")) for folder in folders)
