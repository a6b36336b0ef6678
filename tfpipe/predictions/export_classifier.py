"""Classifies with an exported model in this process."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.predictions.image_classifier import Outcome
from tfpipe.predictions.local import LocalClassifier
from tfpipe.protocol.classification import LABELS_OUTPUT, UNFAMILIAR_OUTPUT
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.versions import version_folders
from tfpipe.publish import card
from tfpipe.records import verify

_GRAPH = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class ExportClassifier(LocalClassifier):
    """A SavedModel of tfpipe.export; its outputs are probabilities.

    The server loads it the same way.

    Attributes:
        folder: the version's folder.
    """

    folder: str

    @functools.cached_property
    def image_size(self) -> int:  # noqa: D102
        try:
            shape = self._loaded.signatures["predict_images"].inputs["images"].tensor_shape
        except KeyError:
            raise UserError(
                f"--export_dir: {self.folder} has no signature predict_images: name what"
                " tfpipe.export wrote, or serve the model and give --server"
            ) from None
        return shape.dim[1].size

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:  # noqa: D102
        path = pathlib.Path(self.folder) / "assets" / "labels.txt"
        try:
            return tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise UserError(
                f"--export_dir: {path} does not tell the classes ({error}): name what tfpipe.export"
                " wrote, or serve the model and give --server"
            ) from None

    @property
    def depth16(self) -> str:  # noqa: D102
        return self._data.get("depth16", super().depth16)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # noqa: D102
        folder = pathlib.Path(self.folder)
        paths = [folder / _GRAPH, *sorted((folder / "variables").glob("*"))]
        try:
            return {path.name: verify.sha256(path) for path in paths}
        except OSError as error:
            raise UserError(
                f"--export_dir: {error.filename}: {error.strerror}: make it readable"
            ) from None

    @functools.cached_property
    def thresholds(self) -> tuple[float, ...] | None:  # noqa: D102
        signature = self._loaded.signatures.get("predict_images")
        if signature is None or LABELS_OUTPUT not in signature.outputs:
            return None
        try:
            found = self._card["decision"]["thresholds"]
            return tuple(float(found[name]) for name in self.classes)
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"--export_dir: {self.folder}/{card.JSON} does not tell the thresholds of the"
                " classes: export it again"
            ) from None

    def classify(self, images: Sequence[np.ndarray | None]) -> Outcome:  # noqa: D102
        known = self._loaded.signatures["predict_images"].outputs
        names = ["probabilities", *({UNFAMILIAR_OUTPUT} & set(known))]
        found = self._run("predict_images", {"images": self.batch(images)}, names)
        rows = {key: value[: len(images)] for key, value in found.items()}
        return Outcome(rows["probabilities"], unfamiliar=rows.get(UNFAMILIAR_OUTPUT))

    def heat_maps(self, files: Sequence[bytes]) -> np.ndarray:  # noqa: D102
        inputs = {"image_bytes": np.array(files, object)}
        return self._run("explain", inputs, ["heat_map"])["heat_map"]

    @functools.cached_property
    def class_shares(self) -> Sequence[float]:  # noqa: D102
        try:
            return [float(self._data["class_shares"][name]) for name in self.classes]
        except (ValueError, KeyError, TypeError):
            return ()

    @functools.cached_property
    def _card(self) -> dict[str, Any]:
        """The model card; empty if it is missing or damaged."""
        try:
            path = pathlib.Path(self.folder) / card.JSON
            return dict(json.loads(storage.read_whole(path) or b""))
        except (OSError, ValueError, TypeError):
            return {}

    @property
    def _data(self) -> dict[str, Any]:
        """What the model card says of the training records; empty if it says nothing."""
        found = self._card.get("data")
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def _loaded(self) -> LoadedModel:
        try:
            return LoadedModel(pathlib.Path(self.folder), 0)
        except RequestError as error:
            raise UserError(f"--export_dir: {error.message}: export it again") from None

    def _run(
        self, signature: str, inputs: dict[str, np.ndarray], outputs: list[str]
    ) -> dict[str, np.ndarray]:
        try:
            return self._loaded.run(signature, inputs, outputs)
        except RequestError as error:
            raise UserError(f"--export_dir: {self.folder}: {error.message}") from None


def find(export_dir: str) -> str:
    """Return the folder of a version.

    Args:
        export_dir: that folder, or the folder of a model, which stands for its highest version.

    Raises:
        UserError: there is none.
    """
    folder = pathlib.Path(export_dir)
    if (folder / _GRAPH).is_file():
        return export_dir
    try:
        versions = version_folders(folder)
    except OSError as error:
        raise UserError(f"--export_dir={export_dir}: {error.strerror}") from None
    if not versions:
        raise UserError(
            f"--export_dir={export_dir} holds neither {_GRAPH} nor a version of a model: name a"
            " folder as tfpipe.export was given it, or one version in it"
        )
    return str(versions[max(versions)])
