"""A model on disk: finds its versions, keeps the highest served.

A base path holds one folder for each version, named by a decimal number; whatever else lies there
is skipped:

    export/demo/1/saved_model.pb
    export/demo/2/saved_model.pb    <- served
    export/demo/.partial-3/         skipped
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from serving import cli
from serving.errors import RequestError, not_found
from serving.protocol import ModelVersionStatus

if TYPE_CHECKING:
    from serving.servable import Servable

_LARGEST = 2**63 - 1


def version_folders(base_path: pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the folders under `base_path` that are named by a number; none if it is missing."""
    try:
        entries = sorted(base_path.iterdir())
    except OSError:
        return {}
    return {
        int(entry.name): entry
        for entry in entries
        if entry.name.isascii()
        and entry.name.isdecimal()
        and len(entry.name) <= len(str(_LARGEST))
        and int(entry.name) <= _LARGEST
        and entry.is_dir()
    }


class Model:
    """The versions of one model, of which the highest is served.

    A new version is loaded beside the old one and takes its place in one step, so that requests are
    answered all the time. A version that cannot be loaded leaves the old one in place, and is tried
    again once its files change.
    """

    def __init__(
        self,
        name: str,
        base_path: pathlib.Path,
        load: "Callable[[pathlib.Path, int], Servable]",
    ):
        """`load` makes a Servable of a version's folder and number, or raises RequestError."""
        self.name = name
        self.base_path = base_path
        self._load = load
        self._served: Servable | None = None
        self._statuses: dict[int, ModelVersionStatus] = {}
        self._failed: dict[int, tuple] = {}  # the files of versions that could not be loaded

    def refresh(self) -> None:
        """Serves the highest version on disk, if it is not served yet.

        Raises:
            RequestError: that version cannot be loaded; whatever was served still is.
        """
        folders = version_folders(self.base_path)
        version = max(folders, default=None)
        if version is None or (self._served and version == self._served.version):
            return
        files = _files(folders[version])
        if files == self._failed.get(version):
            return
        self._set_status(version, ModelVersionStatus.LOADING)
        try:
            servable = self._load(folders[version], version)
            if self._served:
                servable.check_replaces(self._served)
        except RequestError as error:
            self._failed[version] = files
            self._set_status(version, ModelVersionStatus.END, error)
            raise
        old, self._served = self._served, servable
        self._set_status(version, ModelVersionStatus.AVAILABLE)
        if old:
            self._set_status(old.version, ModelVersionStatus.END)

    def watch(self, interval_s: float, stop: threading.Event) -> None:
        """Refreshes every `interval_s` seconds until `stop` is set; reports what it does."""
        while not stop.wait(interval_s):
            before = self._served
            try:
                self.refresh()
            except RequestError as error:
                cli.error(f"{error.message}; still serving version {before.version}")
            if self._served is not before:
                cli.say(f"serving {self.name} version {self._served.version}")

    def servable(self, version: int | None = None) -> "Servable":
        """Returns the version that is served.

        Raises:
            RequestError: it is not `version`, where one is asked for.
        """
        served = self._served
        if served is None or version not in (None, served.version):
            raise not_found(_request_name(self.name, version))
        return served

    def statuses(self) -> list[ModelVersionStatus]:
        """Returns the state of each version that has been tried, the lowest first."""
        return [status for _, status in sorted(self._statuses.copy().items())]

    def _set_status(self, version: int, state: int, error: RequestError | None = None) -> None:
        status = ModelVersionStatus(version=version, state=state)
        code, message = (error.code, error.message) if error else (grpc.StatusCode.OK, "")
        status.status.error_code = code.value[0]
        status.status.error_message = message
        self._statuses[version] = status


def find(models: dict[str, Model], name: str, version: int | None) -> "Servable":
    """Returns the servable that a request asks for.

    Raises:
        RequestError: there is no such model, or no such version of it.
    """
    if name not in models:
        raise not_found(_request_name(name, version))
    return models[name].servable(version)


def _request_name(name: str, version: int | None) -> str:
    which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return f"Servable not found for request: {which}"


def _files(folder: pathlib.Path) -> tuple:
    """Returns what changes when a file below `folder` does."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                stat = os.stat(os.path.join(parent, name))
                found.append((parent, name, stat.st_size, stat.st_mtime_ns))
    return str(folder), *sorted(found)
