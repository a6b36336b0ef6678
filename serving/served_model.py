"""One model of a server: finds its versions on disk and serves those that its policy selects."""

import contextlib
import dataclasses
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from tfpipe.core import terminal
from tfpipe.protocol.errors import RequestError, from_runtime, not_found
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


@dataclasses.dataclass(frozen=True)
class LoadRules:
    """How a version is loaded.

    Attributes:
        load: takes a version's folder and number; it may raise RequestError.
        max_retries: how often a version that failed is tried again while its files stay the same.
        retry_interval_s: seconds between two tries.
        refuse_signature_changes: whether a version must have the signatures of the one before it.
    """

    load: Callable[[pathlib.Path, int], LoadedModel]
    max_retries: int = 5
    retry_interval_s: float = 60.0
    refuse_signature_changes: bool = True


@dataclasses.dataclass
class _Loaded:
    """A version in memory, and the number of requests that use it."""

    model: LoadedModel
    users: int = 0
    retired: bool = False


@dataclasses.dataclass
class _Failure:
    """A version that cannot be loaded: the files at the last try, and when to try again."""

    files: tuple
    message: str
    tries: float
    due: float


@dataclasses.dataclass
class Change:
    """Versions that are loaded and not served yet.

    Attributes:
        policy: which versions are to be served.
        wanted: the versions to serve, served already or loaded for this change.
        loaded: those that were loaded for it.
        errors: by version, of those that cannot be loaded.
    """

    policy: ServableVersionPolicy
    wanted: list[int]
    loaded: dict[int, LoadedModel]
    errors: dict[int, RequestError]


class ServedModel:
    """The versions of one model.

    A new version is loaded beside the old one and replaces it in one step, so requests are always
    answered. An old version is unloaded after its last request. A version that cannot be loaded
    does not affect the served ones; it is tried again some times, and after its files changed. When
    all versions are removed from the disk, none is served.

    Attributes:
        name: the name in requests.
        base_path: the folder of the versions.
    """

    def __init__(self, name: str, base_path: pathlib.Path, rules: LoadRules):
        """Serve nothing yet."""
        self.name, self.base_path = name, base_path
        self._policy = ServableVersionPolicy()
        self._rules = rules
        self._lock = threading.Lock()  # guards `_loaded` and each user count
        self._loaded: dict[int, _Loaded] = {}
        self._statuses: dict[int, ModelVersionStatus] = {}
        self._failed: dict[int, _Failure] = {}

    @property
    def versions(self) -> list[int]:
        """The served versions, the lowest first."""
        with self._lock:
            return sorted(self._loaded)

    def prepare(self, policy: ServableVersionPolicy | None = None) -> Change:
        """Load the versions that are missing, beside those that are served.

        Args:
            policy: which versions to serve; None for the present choice. With one, failed
                versions are tried again at once.

        Returns:
            The change for `commit` or `discard`.

        Raises:
            OSError: the folders cannot be read at the moment.
        """
        changed = policy is not None and policy != self._policy
        if policy is not None:
            self._failed.clear()
        policy = policy if changed else self._policy
        folders, served = version_folders(self.base_path), set(self.versions)
        there = aspired(policy, list(folders))
        removed = not there and self.base_path.is_dir()
        change = Change(policy, there, {}, {})
        for version in sorted(set(there) - served):
            self._load(version, folders, change)
        available = served | change.loaded.keys()
        change.wanted = [version for version in change.wanted if version in available]
        # Without a replacement the old versions stay, unless they were removed from the disk. A
        # base path that is gone may be mounted again.
        if not change.wanted and not changed and not removed:
            change.wanted = sorted(served)
        return change

    def commit(self, change: Change) -> None:
        """Serve the versions of a change; the others are served until `retire`."""
        self._policy = change.policy
        with self._lock:
            self._loaded |= {version: _Loaded(each) for version, each in change.loaded.items()}
        for version in change.loaded:
            self._set_status(version, ModelVersionStatus.AVAILABLE)

    def discard(self, change: Change) -> None:
        """Free what was loaded for a change."""
        for version, model in change.loaded.items():
            model.close()
            self._set_status(version, ModelVersionStatus.END)

    def retire(self, change: Change) -> None:
        """Unload the versions that a change does not want, each after its last request."""
        for version in set(self.versions) - set(change.wanted):
            self._retire(version)

    def refresh(self) -> list[RequestError]:
        """Load and unload versions to match the folders and the policy.

        Returns:
            An error for each version that cannot be loaded, once for each reason.

        Raises:
            OSError: the folders cannot be read at the moment; nothing changed.
        """
        change = self.prepare()
        self.commit(change)
        self.retire(change)
        return list(change.errors.values())

    def report(self) -> None:
        """Refresh, and report changes and errors; raises OSError as `refresh` does."""
        before = self.versions
        errors, after = self.refresh(), self.versions
        serving = ", ".join(map(str, after)) or "none"
        for error in errors:
            terminal.error(f"{error.message}; still serving version {serving}")
        if after != before:
            where = "" if after else f": all versions were removed from {self.base_path}"
            terminal.say(f"serving {self.name} version {serving}{where}")

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

    def _load(self, version: int, folders: dict[int, pathlib.Path], change: Change) -> bool:
        """Load a version into `change`, or note the error; return whether it is loaded."""
        before, files = self._failed.get(version), (*folders, *_files(folders[version]))
        if before and before.files == files:
            if before.tries > self._rules.max_retries or time.monotonic() < before.due:
                return False
        else:
            before = None
        self._set_status(version, ModelVersionStatus.LOADING)
        model, tries = None, before.tries + 1 if before else 1
        try:
            model = self._rules.load(folders[version], version)
            tries = math.inf  # another try would find the same signatures
            self._check_replaces(model, folders)
        except Exception as caught:  # whatever it is, the served versions stay
            error = from_runtime(caught)
            if model:
                model.close()
            if not before or before.message != error.message:
                change.errors[version] = error
            due = time.monotonic() + self._rules.retry_interval_s
            self._failed[version] = _Failure(files, error.message, tries, due)
            self._set_status(version, ModelVersionStatus.END, error)
            return False
        self._failed.pop(version, None)
        change.loaded[version] = model
        return True

    def _check_replaces(self, model: LoadedModel, folders: dict[int, pathlib.Path]) -> None:
        """Raise RequestError if clients of the highest version cannot use its successor.

        They must, once the folder of that version is gone.
        """
        highest = max(self.versions, default=model.version)
        if self._rules.refuse_signature_changes and highest < model.version and highest in folders:
            model.check_replaces(self._loaded[highest].model)

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
