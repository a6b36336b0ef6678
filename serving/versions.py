"""A model on disk: finds its versions, serves those that its policy asks for.

A base path holds one folder for each version, named by a decimal number; whatever else lies there
is skipped:

    export/demo/1/saved_model.pb
    export/demo/2/saved_model.pb    <- served
    export/demo/.partial-3/         skipped
"""

import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc

from serving import background, cli
from serving.errors import RequestError, not_found
from serving.protocol import ModelVersionStatus, ServableVersionPolicy

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


def aspired(policy: ServableVersionPolicy, there: list[int]) -> list[int]:
    """Returns which of the versions that are there a policy asks for, the highest first.

    Args:
        policy: "latest" (1 without a number, and without a policy), "all" or "specific".
        there: the versions on disk.
    """
    highest = sorted(there, reverse=True)
    match policy.WhichOneof("policy_choice"):
        case "all":
            return highest
        case "specific":
            return [version for version in highest if version in policy.specific.versions]
        case _:
            return highest[: policy.latest.num_versions or 1]


@dataclasses.dataclass
class _Loaded:
    """A version in memory, and how many calls are using it."""

    servable: "Servable"
    users: int = 0
    retired: bool = False


class Model:
    """The versions of one model.

    A new version is loaded beside the old one and takes its place in one step, so that requests are
    answered all the time; an old one is unloaded when its last call has ended. A version that
    cannot be loaded leaves those in place that are served, and is tried again once its files
    change. If none is served yet, the next lower one is, where the policy is "latest".

    Attributes:
        name: that requests give.
        base_path: of the versions.
        policy: which versions are served.
    """

    def __init__(
        self,
        name: str,
        base_path: pathlib.Path,
        load: "Callable[[pathlib.Path, int], Servable]",
        policy: ServableVersionPolicy | None = None,
    ):
        """`load` makes a Servable of a version's folder and number, or raises RequestError."""
        self.name = name
        self.base_path = base_path
        self.policy = policy or ServableVersionPolicy()
        self._load = load
        self._lock = threading.Lock()  # of `_loaded` and of each user count
        self._loaded: dict[int, _Loaded] = {}
        self._statuses: dict[int, ModelVersionStatus] = {}
        self._failed: dict[int, tuple] = {}  # the files of versions that could not be loaded

    @property
    def versions(self) -> list[int]:
        """The versions that are served, the lowest first."""
        with self._lock:
            return sorted(self._loaded)

    def refresh(self) -> list[RequestError]:
        """Loads and unloads versions, as the folders and the policy say now.

        Returns:
            An error for each version that cannot be loaded, and was not tried before as it is.
        """
        folders = version_folders(self.base_path)
        wanted = aspired(self.policy, list(folders))
        errors = self._load_missing(wanted, folders)
        if not self.versions and errors and self._is_latest:
            lower = (version for version in sorted(folders, reverse=True) if version not in wanted)
            for version in lower:
                wanted = [version]
                errors += (failed := self._load_missing(wanted, folders))
                if not failed:
                    break
        served = self.versions
        if set(wanted) & set(served):  # else there is nothing that could take its place
            for version in set(served) - set(wanted):
                self._retire(version)
        return errors

    def report(self) -> None:
        """Refreshes, and says what came of it."""
        before = self.versions
        errors, after = self.refresh(), self.versions
        serving = ", ".join(map(str, after))
        for error in errors:
            cli.error(f"{error.message}; still serving version {serving or 'none'}")
        if after != before and after:
            cli.say(f"serving {self.name} version {serving}")

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> "Iterator[Servable]":
        """Yields a version that is not unloaded meanwhile; the highest if none is asked for.

        Raises:
            RequestError: it is not served.
        """
        with self._lock:
            number = max(self._loaded, default=None) if version is None else version
            loaded = self._loaded.get(number)
            if loaded is None:
                raise not_found(request_name(self.name, version))
            loaded.users += 1
        try:
            yield loaded.servable
        finally:
            with self._lock:
                loaded.users -= 1
                is_last = loaded.retired and not loaded.users
            if is_last:  # whose answer does not wait for that, some 0.15 s
                threading.Thread(target=self._close, args=(loaded,)).start()

    def statuses(self) -> list[ModelVersionStatus]:
        """Returns the state of each version that has been tried, the lowest first."""
        return [status for _, status in sorted(self._statuses.copy().items())]

    def unload(self) -> None:
        """Unloads all versions, each when its last call has ended."""
        for version in self.versions:
            self._retire(version)

    @property
    def _is_latest(self) -> bool:
        return self.policy.WhichOneof("policy_choice") in (None, "latest")

    def _load_missing(
        self, wanted: list[int], folders: dict[int, pathlib.Path]
    ) -> list[RequestError]:
        """Loads what is wanted and not there; returns what fails."""
        errors = []
        for version in sorted(set(wanted) - set(self.versions)):
            files = _files(folders[version])
            if files == self._failed.get(version):
                continue
            self._set_status(version, ModelVersionStatus.LOADING)
            try:
                servable = self._load(folders[version], version)
            except RequestError as error:
                errors.append(self._fail(version, files, error))
                continue
            try:
                self._check_replaces(servable)
            except RequestError as error:
                servable.close()
                errors.append(self._fail(version, files, error))
                continue
            with self._lock:
                self._loaded[version] = _Loaded(servable)
            self._set_status(version, ModelVersionStatus.AVAILABLE)
        return errors

    def _check_replaces(self, servable: "Servable") -> None:
        """Refuses a successor that clients of the highest version would not understand."""
        versions = self.versions
        if versions and self._is_latest and servable.version > versions[-1]:
            servable.check_replaces(self._loaded[versions[-1]].servable)

    def _fail(self, version: int, files: tuple, error: RequestError) -> RequestError:
        self._failed[version] = files
        self._set_status(version, ModelVersionStatus.END, error)
        return error

    def _retire(self, version: int) -> None:
        with self._lock:
            loaded = self._loaded.pop(version)
            loaded.retired = True
            is_last = not loaded.users
        self._set_status(version, ModelVersionStatus.UNLOADING)
        if is_last:
            self._close(loaded)

    def _close(self, loaded: _Loaded) -> None:
        background.run(loaded.servable.close)
        version = loaded.servable.version
        if self._statuses[version].state == ModelVersionStatus.UNLOADING:  # not loaded again
            self._set_status(version, ModelVersionStatus.END)

    def _set_status(self, version: int, state: int, error: RequestError | None = None) -> None:
        status = ModelVersionStatus(version=version, state=state)
        code, message = (error.code, error.message) if error else (grpc.StatusCode.OK, "")
        status.status.error_code = code.value[0]
        status.status.error_message = message
        self._statuses[version] = status


def request_name(name: str, version: int | None) -> str:
    """Returns what TensorFlow Serving says of a model or version that is not served."""
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
