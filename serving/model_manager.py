"""The models of a server, by name, version and label."""

import contextlib
import pathlib
import threading
from collections.abc import Iterator

import grpc

from serving.served_model import Change, LoadRules, ServedModel, request_name
from tfpipe.core import terminal
from tfpipe.protocol.errors import RequestError, invalid, not_found, precondition
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.messages import ModelConfig, ModelServerConfig, ModelSpec, ModelVersionStatus

PLATFORM = "tensorflow"


class NoVersionError(RequestError):
    """A model has no version on disk, or its folder cannot be read at the moment."""


class ModelManager:
    """The models by name, and the labels of their versions.

    Safe to use from several threads; changes wait for each other.
    """

    def __init__(self, rules: LoadRules):
        """Serve nothing yet; `rules` apply to all models."""
        self._rules = rules
        self._models: dict[str, ServedModel] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._changing = threading.RLock()

    def __contains__(self, name: str) -> bool:
        return name in self._models

    @property
    def served(self) -> dict[str, list[int]]:
        """The served versions by model, both sorted."""
        return {name: model.versions for name, model in sorted(self._models.items())}

    def configure(self, config: ModelServerConfig, *, labels_may_wait: bool = False) -> None:
        """Serve the models of a configuration, and no others.

        Each model is loaded beside what is served now, and then replaces it together with its
        labels. A model that cannot be served stays as it was, and does not affect the others. Then
        no model is removed either.

        Args:
            config: the models.
            labels_may_wait: accept a label of a version that is not served yet, unless it is the
                label of another version now. Until then requests do not find the label.

        Raises:
            NoVersionError: all that is wrong is that some models have no version on disk.
            RequestError: the configuration is not valid, and nothing changed; or a model has no
                version that can be loaded, or the version of a label is not served.
        """
        _check(config)
        configs = {each.name: each for each in config.model_config_list.config}
        with self._changing:
            failed = []
            for each in configs.values():
                try:
                    self._apply(each, labels_may_wait)
                except RequestError as error:
                    failed.append(error)
                except OSError as error:
                    failed.append(_missing(each, f" with error {error.strerror}"))
            if not failed:
                for name in self._models.keys() - configs.keys():
                    self._remove(name)
        if failed:
            failed.sort(key=lambda error: isinstance(error, NoVersionError))
            kind = type(failed[0])
            raise kind(failed[0].code, "; ".join(error.message for error in failed))

    def refresh(self) -> None:
        """Load and unload versions to match the disk, and report the changes.

        Raises:
            RequestError: the folders of some models cannot be read at the moment.
        """
        with self._changing:
            unread = []
            for name, model in self._models.items():
                try:
                    model.report()
                except OSError as error:
                    unread.append(f"{model.base_path}: {error.strerror}; {name} stays as it is")
            if unread:
                raise RequestError(grpc.StatusCode.UNAVAILABLE, " ".join(unread))

    @contextlib.contextmanager
    def acquire(self, spec: ModelSpec) -> Iterator[LoadedModel]:
        """Yield the requested version, which is not unloaded meanwhile.

        Raises:
            RequestError: the request names no model, or one, a version or a label that is not
                served.
        """
        with contextlib.ExitStack() as stack:
            found = None
            while found is None:
                model, version = self._find(spec)
                try:
                    found = stack.enter_context(model.acquire(version))
                except RequestError:
                    if self._find(spec) == (model, version):  # else it was replaced meanwhile
                        raise
            yield found

    def _find(self, spec: ModelSpec) -> tuple[ServedModel, int | None]:
        """Return a model and the version that is asked for, None for the highest."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        version = spec.version.value if spec.HasField("version") else None
        if spec.WhichOneof("version_choice") == "version_label":
            version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        model = self._models.get(spec.name)
        if model is None:
            raise not_found(request_name(spec.name, version))
        return model, version

    def statuses(self, name: str, version: int | None) -> list[ModelVersionStatus]:
        """Return the state of one version, or of all known ones.

        Raises:
            RequestError: there is none.
        """
        model = self._models.get(name)
        found = model.statuses() if model else []
        if version is not None:
            found = [status for status in found if status.version == version]
        if not found:
            which = "any versions" if version is None else f"version {version}"
            raise not_found(f"Could not find {which} of model {name}")
        return found

    def unload(self) -> None:
        """Unload everything."""
        with self._changing:
            for model in self._models.values():
                model.unload()

    def _apply(self, config: ModelConfig, labels_may_wait: bool) -> None:
        """Serve one model as `config` says.

        Raises:
            RequestError: it cannot be served so; nothing changed.
            OSError: its folder cannot be read; nothing changed.
        """
        name, base_path = config.name, pathlib.Path(config.base_path)
        old = self._models.get(name)
        model = old
        if old is None or old.base_path != base_path:
            model = ServedModel(name, base_path, self._rules)
        change = model.prepare(config.model_version_policy)
        try:
            if not change.wanted:
                raise _unavailable(config, change)
            labels, present = dict(config.version_labels), self._labels.get(name, {})
            for label, version in labels.items():
                moves = present.get(label, version) != version
                if version not in change.wanted and (moves or not labels_may_wait):
                    raise _label_error(name, version, change)
        except RequestError:
            model.discard(change)
            raise
        for error in change.errors.values():
            terminal.error(error.message)
        model.commit(change)
        self._models = self._models | {name: model}
        self._labels = self._labels | {name: labels}
        model.retire(change)
        if old and old is not model:
            old.unload()

    def _remove(self, name: str) -> None:
        self._labels = {key: each for key, each in self._labels.items() if key != name}
        model = self._models[name]
        self._models = {key: each for key, each in self._models.items() if key != name}
        model.unload()


def _unavailable(config: ModelConfig, change: Change) -> RequestError:
    """Return TensorFlow Serving's error for a model of which no version can be served."""
    if not change.errors:
        if not pathlib.Path(config.base_path).is_dir():
            return _missing(config)
        return NoVersionError(
            grpc.StatusCode.UNKNOWN,
            f"No versions of servable {config.name} found under base path {config.base_path}. Did"
            " you forget to name your leaf directory as a number (eg. '/1/')?",
        )
    version, error = max(change.errors.items())
    return RequestError(
        grpc.StatusCode.UNKNOWN,
        f"1 servable(s) did not become available: {{{{name: {config.name} version: {version}}} due"
        f" to error: {error.code.name}: {error.message}}}",
    )


def _missing(config: ModelConfig, why: str = "") -> NoVersionError:
    return NoVersionError(
        grpc.StatusCode.UNKNOWN,
        f"Could not find base path {config.base_path} for servable {config.name}{why}",
    )


def _label_error(name: str, version: int, change: Change) -> RequestError:
    why = f": {change.errors[version].message}" if version in change.errors else ""
    return precondition(
        f"Request to assign label to version {version} of model {name}, which is not currently"
        f" available for inference{why}"
    )


def _check(config: ModelServerConfig) -> None:
    """Raise RequestError if a configuration is not valid."""
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only"
            " ModelConfigList is currently supported"
        )
    seen = set()
    for each in config.model_config_list.config:
        if not each.name or not each.base_path:
            raise invalid("Every model needs a name and a base_path")
        if each.name in seen:
            raise invalid(f"Illegal to list model {each.name} multiple times in config list")
        seen.add(each.name)
        if bool(each.model_platform) == bool(each.model_type):
            which = "setting both" if each.model_platform else "setting neither"
            link = "and" if each.model_platform else "nor"
            raise invalid(
                f"Illegal {which} ModelServerConfig::model_type (deprecated) {link}"
                f" ModelServerConfig::model_platform, model name is {each.name}"
            )
        if each.model_platform not in ("", PLATFORM):
            raise invalid(f"Model {each.name} requests unsupported platform {each.model_platform}")
