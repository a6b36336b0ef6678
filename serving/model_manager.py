"""The models of a server, by name, version and label."""

import contextlib
import pathlib
import threading
from collections.abc import Callable

import grpc

from serving.served_model import ServedModel, request_name
from tfpipe.core import terminal
from tfpipe.protocol.errors import RequestError, invalid, not_found, precondition
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.messages import ModelServerConfig, ModelSpec, ModelVersionStatus

PLATFORM = "tensorflow"


class ModelManager:
    """The models by name, and the labels of their versions.

    Safe to use from several threads; changes wait for each other.
    """

    def __init__(self, load: Callable[[pathlib.Path, int], LoadedModel]):
        """`load` takes a version's folder and number; it may raise RequestError."""
        self._load = load
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

        A model that cannot be served does not affect the others.

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
            for name in self._models.keys() - configs.keys():
                self._models.pop(name).unload()
                self._labels.pop(name, None)
            errors = []
            for name, each in configs.items():
                model = self._models.get(name)
                base_path = pathlib.Path(each.base_path)
                if model is None or model.base_path != base_path:
                    if model:
                        model.unload()
                    model = ServedModel(name, base_path, self._load)
                    self._models = self._models | {name: model}
                model.policy = each.model_version_policy
                errors += model.refresh()
            self._check_available(errors)
            for name, each in configs.items():
                self._label(self._models[name], dict(each.version_labels), labels_may_wait)

    def refresh(self) -> None:
        """Load and unload versions to match the disk, and report the changes."""
        with self._changing:
            for model in list(self._models.values()):
                model.report()

    def watch(self, interval_s: float, stop: threading.Event) -> None:
        """Refresh every `interval_s` seconds until `stop` is set."""
        while not stop.wait(interval_s):
            self.refresh()

    def acquire(self, spec: ModelSpec) -> contextlib.AbstractContextManager[LoadedModel]:
        """Return a context of the requested version, which is not unloaded meanwhile.

        Raises:
            RequestError: the request names no model, or one, a version or a label that is not
                served.
        """
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
        return model.acquire(version)

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

    def _check_available(self, errors: list[RequestError]) -> None:
        """Raise RequestError if a model has no version; report the other errors."""
        empty = [name for name, versions in self.served.items() if not versions]
        for error in errors[1:] if empty else errors:
            terminal.error(error.message)
        if empty:
            why = errors[0].message if errors else "no version is there"
            raise RequestError(
                grpc.StatusCode.UNKNOWN,
                f"Some models did not become available: {{{', '.join(empty)}}}: {why}",
            )

    def _label(self, model: ServedModel, labels: dict[str, int], may_wait: bool) -> None:
        """Set the labels of a model; raises RequestError if a version is not served."""
        for version in labels.values():
            if version not in model.versions and not may_wait:
                raise precondition(
                    f"Request to assign label to version {version} of model {model.name}, which is"
                    " not currently available for inference",
                )
        self._labels = self._labels | {model.name: labels}


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
