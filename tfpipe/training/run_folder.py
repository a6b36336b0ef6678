"""A run folder: where a training keeps its configuration, checkpoints and logs.

The files are:

    runs/NAME/
      config.json        options as given, and as resolved
      backbones/         copies of the model files that backbones are cut from, if any
      first.weights.h5   first weights, if they come from another run
      trained_images.npz which images it was trained and validated on
      limited/           the records of --limit
      best.weights.h5    weights of the epoch with the lowest validation loss
      stages/            the same for each stage
      features/          features of frozen layers, unless --feature_cache is given
      last/              newest checkpoints of the whole training, to resume from
      log.csv            one line for each epoch
      tensorboard/       the same for TensorBoard
      learning_rate.json range tests of --learning_rate=auto
      mlflow.json        the run of MLflow, if it is logged there; wandb.json likewise
      lock               held by the training that is running here
      calibration.json   how logits become probabilities, and for which weights; where images may
                         have several classes, also the threshold of each
      predictions.csv    logits and probabilities of the validation split
      familiarity.npz    with --reject_rate: what is none of the classes
      metrics.json       written by tfpipe.evaluate
      report.html        written by tfpipe.report, or comparison.html
      plots/             its plots

Commands after the training need nothing but this folder and the records. When the training ends,
`parts` in config.json lists the files that they need.
"""

import contextlib
import dataclasses
import fcntl
import functools
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tfpipe
from tfpipe.core import options, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import threshold
from tfpipe.model import backbones, classifier, model_file, views
from tfpipe.model.calibration import Calibration
from tfpipe.model.familiarity import Familiarity
from tfpipe.model.precision import under
from tfpipe.model.predictor import Predictor
from tfpipe.records import label_set, verify
from tfpipe.records.manifest import Manifest
from tfpipe.records.subset import Subset
from tfpipe.training import records_place, resolve, stages
from tfpipe.training.train_config import Resolved, TrainConfig

LAST = "last"  # folder of the checkpoints
LOCK = "lock"  # file that a running training holds
SALVAGED = "salvaged"  # folder of the good records of damaged shards
LIMITED = "limited"  # folder of the records that `limit` draws


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run folder and its configuration."""

    folder: pathlib.Path
    config: TrainConfig
    resolved: Resolved
    parts: tuple[str, ...] = ()  # files that a finished run has; none before its end

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.resolved.classes

    @property
    def class_shares(self) -> tuple[float, ...]:
        """Share of each class among the training records."""
        return self.resolved.class_shares

    @property
    def labels(self) -> str:
        """How many classes an image has: "one" or "many"."""
        return self.resolved.labels

    @property
    def output(self) -> str:
        """The classifier's output, as of `tfpipe.model.classifier`."""
        return self.resolved.output

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The least probability of each class to be answered; None if an image has one class."""
        return read_thresholds(self.calibration_file, self.classes, self.labels)

    @functools.cached_property
    def records(self) -> str:
        """Folder of the records, wherever a command is started; see `records_place.find`."""
        limited = self.folder / LIMITED
        if self.config.limit and records_place.is_there(limited):
            return str(limited)
        return records_place.find(self.folder, self.config, self.resolved)

    @property
    def first_weights(self) -> pathlib.Path:
        """Weights that the training began with, if they come from another run."""
        return self.folder / "first.weights.h5"

    @property
    def trained_images(self) -> pathlib.Path:
        """Which images the run was trained and validated on; see `tfpipe.runs.trained_images`."""
        return self.folder / "trained_images.npz"

    @property
    def splits(self) -> tuple[str, str]:
        """Splits of the records that it was trained and validated on."""
        return self.config.train_split, self.config.val_split

    @property
    def depth16(self) -> str:
        """How 16-bit greys become 8-bit ones."""
        return self.resolved.depth16

    @property
    def tta(self) -> str:
        """Test-time views."""
        return self.config.tta

    @property
    def out_of_fold(self) -> bool:
        """Whether the predictions are of all images, each by a model that was not trained on it."""
        return False

    @property
    def best_weights(self) -> pathlib.Path:
        """Weights that evaluation, prediction and export use."""
        return self.folder / "best.weights.h5"

    @property
    def calibration_file(self) -> pathlib.Path:
        """Calibration, written when the training has ended."""
        return self.folder / "calibration.json"

    @property
    def predictions_file(self) -> pathlib.Path:
        """Predictions of the validation split, written with the calibration."""
        return self.folder / "predictions.csv"

    @property
    def familiarity_file(self) -> pathlib.Path:
        """The distance that tells images of other kinds, if `reject_rate` asks for it."""
        return self.folder / "familiarity.npz"

    @property
    def last(self) -> pathlib.Path:
        """Folder of the checkpoints that a training resumes from."""
        return self.folder / LAST

    @property
    def stages(self) -> tuple[stages.Stage, ...]:
        """Stages of the training, in their order."""
        return stages.parse(self.config)

    def save_weights(self, built: classifier.Classifier, stage: int, *, best: bool) -> None:
        """Save the weights as the best of a stage so far and, if `best` is set, of the run."""
        path = self._stage_weights(stage)
        path.parent.mkdir(exist_ok=True)
        self._save(built, path)
        if best:
            with storage.atomic_file(self.best_weights, "wb") as copy, path.open("rb") as file:
                shutil.copyfileobj(file, copy)

    def save_first(self, built: classifier.Classifier) -> None:
        """Save the weights that the training begins with."""
        self._save(built, self.first_weights)

    def load_first(self, built: classifier.Classifier) -> None:
        """Set the weights to those that the training began with."""
        self._load(built, self.first_weights)

    def _save(self, built: classifier.Classifier, path: pathlib.Path) -> None:
        # Keras chooses the format by the ending, so the partial file has the same one.
        partial = path.with_name(f"{storage.PARTIAL_PREFIX}{path.name}")
        built.model.save_weights(partial)
        partial.replace(path)

    def load_stage(self, built: classifier.Classifier, stage: int) -> None:
        """Set the weights to the best of a stage; raise UserError if they are damaged."""
        self._load(built, self._stage_weights(stage))

    def _stage_weights(self, stage: int) -> pathlib.Path:
        return self.folder / "stages" / f"{self.stages[stage].label}.weights.h5"

    def validation(self, manifest: Manifest) -> Subset:
        """Return the validation records; raise UserError like `resolve.parts`."""
        return resolve.parts(self.config, manifest)[1]

    def model_files(self) -> dict[pathlib.Path, pathlib.Path]:
        """Return the model files that backbones are cut from, and the run's copy of each."""
        names = [branch["name"] for branch in self.resolved.branches]
        paths = [
            pathlib.Path(model_file.parse(name)[0]) for name in names if model_file.is_cut(name)
        ]
        return {path: self.folder / "backbones" / path.name for path in paths}

    def save(self, *, finished: bool = False) -> None:
        """Write the configuration and copy model files; create the folder if needed.

        If `finished`, the configuration lists the files that later commands need.
        """
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for original, copy in self.model_files().items():
                copy.parent.mkdir(exist_ok=True)
                with storage.atomic_file(copy, "wb") as target, original.open("rb") as source:
                    shutil.copyfileobj(source, target)
        storage.write_json(
            self.folder / "config.json",
            {
                "tfpipe_version": tfpipe.__version__,
                "options": options.to_json(self.config),
                "resolved": options.to_json(self.resolved),
                "parts": self._needed() if finished else [],
            },
        )

    def _needed(self) -> list[str]:
        """Return the files that commands after the training need."""
        files = [self.best_weights, self.calibration_file, *self.model_files().values()]
        files += [self.predictions_file]
        # Unknown if the weights come from a run without it.
        files += [self.trained_images] if self.trained_images.is_file() else []
        files += [self.familiarity_file] if self.config.reject_rate else []
        return [str(file.relative_to(self.folder)) for file in files]

    def check_parts(self) -> None:
        """Raise UserError if a file is missing without which the run answers otherwise.

        Others are warned about: the validation's predictions, and the list of images.
        """
        missing = [name for name in self.parts if not (self.folder / name).is_file()]
        spare = {self.predictions_file.name, self.trained_images.name}
        if needed := [name for name in missing if name not in spare]:
            raise UserError(
                f"{self.folder} lacks {', '.join(needed)}, which its config.json lists: copy the"
                " whole folder, or run tfpipe.train there again"
            )
        if missing:
            terminal.warn(f"{self.folder} lacks {', '.join(missing)}, which its config.json lists")

    def build(self, *, first_weights: bool) -> classifier.Classifier:
        """Build the classifier under the current Keras policy, perhaps with its first weights.

        Without them, model files are read from the run's copies.
        """
        branches = [
            classifier.BackboneConfig(
                branch["name"] if first_weights else self._kept(branch["name"]),
                branch["size"],
                # Those of another run are set later, by `tfpipe.runs.first_weights`.
                branch["weights"]
                if first_weights and not resolve.is_run(branch["weights"])
                else backbones.NO_WEIGHTS,
            )
            for branch in self.resolved.branches
        ]
        return classifier.build(
            branches,
            len(self.resolved.classes),
            pooling=self.config.pooling,
            head=self.config.head,
            output=self.resolved.output,
            head_init=self.config.head_init,
            drop_path=self.config.drop_path,
        )

    def _kept(self, name: str) -> str:
        if not model_file.is_cut(name):
            return name
        path, layer = model_file.parse(name)
        return f"{self.model_files()[pathlib.Path(path)]}@{layer}"

    def identity(self) -> dict[str, str]:
        """Return what logits depend on, or raise UserError if there are no weights yet."""
        self._check_trained()
        return {"weights_sha256": verify.sha256(self.best_weights), "tta": self.config.tta}

    def calibrated_for(self) -> dict[str, str]:
        """Return what a calibration depends on."""
        # Version 0.1 had bounds with every method, and one text for both.
        bounds = " with bounds" if self.config.calibration_bounds else ""
        return self.identity() | {"calibration": f"{self.config.calibration}{bounds}"}

    def calibration(self) -> Calibration:
        """Read `calibration.json`; raise UserError if it is damaged.

        None is applied, with a warning, if there is no file yet, or if it is for other weights or
        options, as while a finished run is trained further.
        """
        return read_calibration(self.calibration_file, self.calibrated_for)

    def restore(self, *, tta: str = "") -> Predictor:
        """Return the predictor of the best weights, with the run's calibration.

        `tta` are the test-time views, "none" for none; empty for the run's. Raises UserError if
        there are no weights yet, or they or the calibration are damaged.
        """
        return dataclasses.replace(self.uncalibrated(tta=tta), calibration=self.calibration())

    def uncalibrated(self, *, tta: str = "") -> Predictor:
        """Return the predictor like `restore`, without the calibration."""
        chosen = views.parse(tta or self.config.tta)
        familiarity = self.familiarity()
        return Predictor(self.restore_classifier(), chosen, familiarity=familiarity)

    def familiarity(self) -> Familiarity | None:
        """Read `familiarity.npz`; raise UserError if it is damaged.

        Returns:
            None without `reject_rate`; and, with a warning, if the file is missing or of other
            weights, as while a finished run is trained further.
        """
        if not self.config.reject_rate:
            return None
        path = self.familiarity_file
        if not path.is_file():
            terminal.warn(f"{self.folder} lacks {path.name}: run tfpipe.train there to its end")
            return None
        made_for, found = Familiarity.load(path)
        if made_for != self.familiarity_for():
            terminal.warn(
                f"{path} is for other weights or another reject rate than the run now has, so no"
                " image is called unfamiliar: run tfpipe.train there to its end"
            )
            return None
        return found

    def familiarity_for(self) -> dict[str, Any]:
        """Return what the familiarity depends on."""
        weights = self.identity()["weights_sha256"]
        return {"weights_sha256": weights, "reject_rate": self.config.reject_rate}

    def restore_classifier(
        self, built: classifier.Classifier | None = None
    ) -> classifier.Classifier:
        """Load the best weights into a classifier of this run in float32; build it if None.

        Raises:
            UserError: there are none yet, or they are damaged.
        """
        self._check_trained()
        if built is None:
            with under("float32"):
                built = self.build(first_weights=False)
        self._load(built, self.best_weights)
        return built

    def _check_trained(self) -> None:
        if not self.best_weights.is_file():
            raise UserError(
                f"{self.folder} has no trained weights ({self.best_weights.name}): finish at least"
                " one epoch of tfpipe.train there first"
            )

    def _load(self, built: classifier.Classifier, path: pathlib.Path) -> None:
        try:
            built.model.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is damaged ({reason}): run tfpipe.train there again") from None


def load(run_dir: str) -> RunFolder:
    """Open a run folder for reading; raise UserError if it is none."""
    folder = pathlib.Path(run_dir)
    path = folder / "config.json"
    saved = storage.read_json(
        path, what="a run's configuration", hint="give the `run_dir` that tfpipe.train was given"
    )
    if not isinstance(saved, dict) or not {"options", "resolved"} <= set(saved):
        raise UserError(f"{path} is not a run's configuration: run tfpipe.train there again")
    if _version(saved.get("tfpipe_version")) > _version(tfpipe.__version__):
        raise UserError(
            f"{path} was written by tfpipe {saved['tfpipe_version']}, and this is"
            f" {tfpipe.__version__}: use that version or a newer one"
        )
    read = functools.partial(options.from_json, where=str(path), ignore_unknown=True)
    config, resolved = read(TrainConfig, saved["options"]), read(Resolved, saved["resolved"])
    return RunFolder(folder, config, resolved, tuple(saved.get("parts", ())))


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keep other trainings out of a folder, which is created if needed.

    Raises:
        UserError: another training is running there, or the folder cannot be created.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another training is running in {folder}: wait for its end, or give another"
                " `run_dir`"
            ) from None
        yield


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"`run_dir`: cannot write {folder}: {error.strerror}") from None


def _version(text: str | None) -> list[int]:
    """Return the numbers of a version, to compare by."""
    return [int(number) for number in re.findall(r"\d+", text or "")]


def read_calibration(path: pathlib.Path, made_for: Callable[[], dict] | None = None) -> Calibration:
    """Read a `calibration.json` like `RunFolder.calibration`, for what `made_for` returns."""
    if not path.is_file():
        terminal.warn(
            f"{path.parent} has no {path.name}, so its probabilities are not calibrated: run"
            " tfpipe.train there to its end, or copy that file too"
        )
        return Calibration()
    hint = "remove it and run tfpipe.train there again"
    saved = storage.read_json(path, what="a run's calibration", hint=hint)
    try:
        if made_for and saved["made_for"] != made_for():
            terminal.warn(
                f"{path} is for other weights or options than the run now has, so probabilities"
                " are not calibrated: run tfpipe.train there to its end"
            )
            return Calibration()
        return Calibration.from_json(saved["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a run's calibration ({error}): {hint}") from None


def read_thresholds(
    path: pathlib.Path, classes: Sequence[str], labels: str
) -> tuple[float, ...] | None:
    """Read the thresholds in a `calibration.json` like `RunFolder.thresholds`.

    Without the file, as before the end of a training, each is `threshold.UNKNOWN`.

    Raises:
        UserError: the file is damaged.
    """
    if labels == label_set.ONE:
        return None
    if not path.is_file():
        return (threshold.UNKNOWN,) * len(classes)
    hint = "remove it and run tfpipe.train there again"
    saved = storage.read_json(path, what="a run's calibration", hint=hint)
    try:
        return tuple(float(saved[threshold.THRESHOLDS][name]) for name in classes)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has no threshold of each class ({error}): {hint}") from None
