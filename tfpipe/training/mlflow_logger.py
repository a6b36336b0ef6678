"""The logger for MLflow: a run of MLflow for a run folder, which a resumed training continues.

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where, as everywhere in MLflow.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from tfpipe.core import extras, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.training.log import Epoch
from tfpipe.training.loggers import Logger
from tfpipe.training.run_folder import RunFolder

FILE = "mlflow.json"  # in the run folder: the run of MLflow, and where it is

_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
_BATCH = 100  # parameters in a request, MLflow's limit


class MlflowLogger(Logger):
    """Logs the options as parameters, each epoch as metrics, and the report as an artifact."""

    def __init__(self, run: RunFolder, epochs: int):
        """Begin a run of MLflow, or continue the one of the folder."""
        path = run.folder / FILE
        with _explained(f"`log={run.config.log}`"):
            if path.exists():
                self._client, self._id = _opened(path)
                self._client.update_run(self._id, status="RUNNING")
                return
            mlflow = package()
            uri = mlflow.get_tracking_uri()
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            made = self._client.create_run(_experiment(self._client), run_name=run.folder.name)
            self._id = made.info.run_id
            storage.write_json(path, {"tracking_uri": _public(uri), "run_id": self._id})
            options = {**dataclasses.asdict(run.config), "classes": len(run.classes)}
            params = [mlflow.entities.Param(name, str(value)) for name, value in options.items()]
            for start in range(0, len(params), _BATCH):
                self._client.log_batch(self._id, params=params[start : start + _BATCH])

    def add(self, epoch: Epoch) -> None:
        """Log the figures of an epoch; a server that is away costs only a warning."""
        now, make = int(1000 * time.time()), package().entities.Metric
        metrics = [make(name, value, now, epoch.epoch) for name, value in epoch.figures.items()]
        try:
            self._client.log_batch(self._id, metrics=metrics)
        except _errors() as error:
            terminal.warn(f"MLflow has no epoch {epoch.epoch}: {_reason(error)}")

    def end(self, *, finished: bool) -> None:
        """Set the status of the run of MLflow."""
        try:
            self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
        except _errors() as error:
            terminal.warn(f"MLflow has not ended its run: {_reason(error)}")

    @classmethod
    def attach(cls, run: RunFolder, path: pathlib.Path) -> None:
        """Keep a file as an artifact of the folder's run of MLflow."""
        if not (run.folder / FILE).exists():
            return
        client, own = _opened(run.folder / FILE)
        try:
            client.log_artifact(own, str(path))
        except _errors() as error:
            terminal.warn(f"MLflow has no {path.name}: {_reason(error)}")


def package() -> Any:
    """Import MLflow; raise UserError if it is not installed."""
    with extras.needed("mlflow"):
        import mlflow
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def _errors() -> tuple[type[Exception], ...]:
    """Return what MLflow raises for a store that is away or damaged."""
    return package().exceptions.MlflowException, OSError


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _errors() as error:
        raise UserError(
            f"{what}: MLflow does not open its run ({_reason(error)}): check MLFLOW_TRACKING_URI,"
            f" or remove {FILE} in the run folder to begin another run of MLflow"
        ) from None


def _opened(path: pathlib.Path) -> tuple[Any, str]:
    """Return a client and the id of a folder's run."""
    saved = storage.read_json(path, what="a run of MLflow", hint="remove it")
    try:
        uri, own = saved["tracking_uri"], saved["run_id"]
    except (KeyError, TypeError):
        raise UserError(f"{path} is damaged: remove it to begin another run of MLflow") from None
    current = package().get_tracking_uri()
    uri = current if _public(current) == uri else uri
    return package().MlflowClient(tracking_uri=uri), own


def _public(uri: str) -> str:
    """Return a URI without a user's name and password."""
    parts = urllib.parse.urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _experiment(client: Any) -> str:
    """Return the id of the experiment that the environment names, or of MLflow's default."""
    name = os.environ.get(_EXPERIMENT)
    if not name:
        return "0"
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
