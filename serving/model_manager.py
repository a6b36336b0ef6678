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
            labels_may_wait: accept a label of a version that is not served yet. Until then
                requests do not find the label.

        Raises:
            RequestError: the configuration is not valid, and nothing changed; or a model has no
                version that can be loaded, or the version of a label is not served.
        """
        _check(config)
        configs = {each.name: each for each in config.model_config_list.config}
        with self._changing:
            failed = []
            for name, each in configs.items():
                try:
                    self._apply(each, labels_may_wait)
                except RequestError as error:
                    failed.append(error)
                except OSError as error:
                    failed.append(_unavailable(name, f"{each.base_path}: {error.strerror}"))
            if not failed:
                for name in self._models.keys() - configs.keys():
                    self._remove(name)
        if failed:
            raise RequestError(failed[0].code, "; ".join(error.message for error in failed))

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
                raise _unavailable(name, _reason(change))
            labels = dict(config.version_labels)
            for version in labels.values() if not labels_may_wait else ():
                if version not in change.wanted:
                    raise _label_error(name, version, change)
        except RequestError:
            model.discard(change)
            raise
        for error in change.errors:
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


def _reason(change: Change) -> str:
    return change.errors[0].message if change.errors else "no version is there"


def _unavailable(name: str, why: str) -> RequestError:
    return RequestError(
        grpc.StatusCode.UNKNOWN, f"Some models did not become available: {{{name}}}: {why}"
    )


def _label_error(name: str, version: int, change: Change) -> RequestError:
    why = f": {change.errors[0].message}" if change.errors else ""
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
        if not each.model_platform and not each.model_type:
            raise invalid("Illegal setting neither model_type(deprecated) nor model_platform.")
        if each.model_platform and each.model_platform != PLATFORM:
            raise invalid(f"model_platform {each.model_platform} is not served, only {PLATFORM}")
