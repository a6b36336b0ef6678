"""One model of a server: finds its versions on disk and serves those that its policy selects."""

import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable, Iterator

import grpc

from tfpipe.core import terminal
from tfpipe.protocol.errors import RequestError, not_found
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.messages import ModelVersionStatus, ServableVersionPolicy
from tfpipe.protocol.versions import version_folders


def aspired(policy: ServableVersionPolicy, there: list[int]) -> list[int]:
    """Return the versions that a policy selects, the highest first.

    Args:
        policy: "latest" (1 by default, and without a policy), "all" or "specific".
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
    """A version in memory, and the number of requests that use it."""

    model: LoadedModel
    users: int = 0
    retired: bool = False


class ServedModel:
    """The versions of one model.

    A new version is loaded beside the old one and replaces it in one step, so requests are always
    answered. An old version is unloaded after its last request. A version that cannot be loaded
    does not affect the served ones; it is tried again after its files changed. With the policy
    "latest", the next lower version is served if no other is.

    Attributes:
        name: the name in requests.
        base_path: the folder of the versions.
        policy: which versions are served.
    """

    def __init__(
        self,
        name: str,
        base_path: pathlib.Path,
        load: Callable[[pathlib.Path, int], LoadedModel],
    ):
        """`load` takes a version's folder and number; it may raise RequestError."""
        self.name, self.base_path = name, base_path
        self.policy = ServableVersionPolicy()
        self._load = load
        self._lock = threading.Lock()  # guards `_loaded` and each user count
        self._loaded: dict[int, _Loaded] = {}
        self._statuses: dict[int, ModelVersionStatus] = {}
        self._failed: dict[int, tuple] = {}  # files of the versions that cannot be loaded

    @property
    def versions(self) -> list[int]:
        """The served versions, the lowest first."""
        with self._lock:
            return sorted(self._loaded)

    def refresh(self) -> list[RequestError]:
        """Load and unload versions to match the folders and the policy.

        Returns:
            An error for each version that cannot be loaded, once until its files change.
        """
        folders = version_folders(self.base_path)
        wanted = aspired(self.policy, list(folders))
        errors = self._load_missing(wanted, folders)
        if not self.versions and errors and self._is_latest:
            for version in sorted(set(folders) - set(wanted), reverse=True):
                if not self.versions:
                    wanted = [version]
                    errors += self._load_missing(wanted, folders)
        served = self.versions
        if set(wanted) & set(served):  # without a replacement the old version stays
            for version in set(served) - set(wanted):
                self._retire(version)
        return errors

    def report(self) -> None:
        """Refresh, and report changes and errors."""
        before = self.versions
        errors, after = self.refresh(), self.versions
        serving = ", ".join(map(str, after))
        for error in errors:
            terminal.error(f"{error.message}; still serving version {serving or 'none'}")
        if after != before and after:
            terminal.say(f"serving {self.name} version {serving}")

    @contextlib.contextmanager
    def acquire(self, version: int | None = None) -> Iterator[LoadedModel]:
        """Yield a version, by default the highest; it is not unloaded meanwhile.

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
            yield loaded.model
        finally:
            with self._lock:
                loaded.users -= 1
                is_last = loaded.retired and not loaded.users
            if is_last:  # in a thread: the answer need not wait for it
                threading.Thread(target=self._close, args=(loaded,)).start()

    def statuses(self) -> list[ModelVersionStatus]:
        """Return the state of each known version, the lowest first."""
        return [status for _, status in sorted(self._statuses.copy().items())]

    def unload(self) -> None:
        """Unload all versions, each after its last request."""
        for version in self.versions:
            self._retire(version)

    @property
    def _is_latest(self) -> bool:
        return self.policy.WhichOneof("policy_choice") in (None, "latest")

    def _load_missing(
        self, wanted: list[int], folders: dict[int, pathlib.Path]
    ) -> list[RequestError]:
        """Load the wanted versions that are missing; return the errors."""
        errors = []
        for version in sorted(set(wanted) - set(self.versions)):
            files = _files(folders[version])
            if files == self._failed.get(version):
                continue
            self._set_status(version, ModelVersionStatus.LOADING)
            model = None
            try:
                model = self._load(folders[version], version)
                self._check_replaces(model)
            except RequestError as error:
                if model:
                    model.close()
                errors.append(error)
                self._failed[version] = files
                self._set_status(version, ModelVersionStatus.END, error)
                continue
            with self._lock:
                self._loaded[version] = _Loaded(model)
            self._set_status(version, ModelVersionStatus.AVAILABLE)
        return errors

    def _check_replaces(self, model: LoadedModel) -> None:
        """Raise RequestError if clients of the highest version cannot use its successor."""
        versions = self.versions
        if versions and self._is_latest and model.version > versions[-1]:
            model.check_replaces(self._loaded[versions[-1]].model)

    def _retire(self, version: int) -> None:
        with self._lock:
            loaded = self._loaded.pop(version)
            loaded.retired = True
            is_last = not loaded.users
        self._set_status(version, ModelVersionStatus.UNLOADING)
        if is_last:
            self._close(loaded)

    def _close(self, loaded: _Loaded) -> None:
        loaded.model.close()
        version = loaded.model.version
        # Unless it was loaded again meanwhile.
        if self._statuses[version].state == ModelVersionStatus.UNLOADING:
            self._set_status(version, ModelVersionStatus.END)

    def _set_status(self, version: int, state: int, error: RequestError | None = None) -> None:
        status = ModelVersionStatus(version=version, state=state)
        code, message = (error.code, error.message) if error else (grpc.StatusCode.OK, "")
        status.status.error_code = code.value[0]
        status.status.error_message = message
        self._statuses[version] = status


def request_name(name: str, version: int | None) -> str:
    """Return TensorFlow Serving's text for a model or version that is not served."""
    which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return f"Servable not found for request: {which}"


def _files(folder: pathlib.Path) -> tuple:
    """Return a value that changes with any file below `folder`."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it was removed meanwhile
                stat = os.stat(os.path.join(parent, name))
                found.append((parent, name, stat.st_size, stat.st_mtime_ns))
    return str(folder), *sorted(found)
