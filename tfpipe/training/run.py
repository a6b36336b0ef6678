"""A run folder: where a training keeps its configuration, checkpoints and logs.

The files are:

    runs/NAME/
      config.json        options as given, and what they were resolved to
      backbones/         copies of the model files that backbones were cut from, if any
      best.weights.h5    weights of the epoch with the lowest validation loss
      stages/            the same for each stage
      features/          what frozen layers made of the images, unless --feature_cache is given
      last/              newest checkpoints of the whole training state, to resume from
      log.csv            one line an epoch
      tensorboard/       the same for TensorBoard
      lock               held by the training at work here
      calibration.json   how logits become probabilities, and the weights that this is for
      predictions.csv    logits and probabilities of the validation split
      metrics.json       written by tfpipe.evaluate
      report.html        written by tfpipe.report, or comparison.html
      plots/             its plots

Commands after the training need nothing but this folder and the records.
"""

import contextlib
import dataclasses
import fcntl
import filecmp
import pathlib
import shutil
from collections.abc import Callable, Iterator

import tfpipe
from tfpipe.core import options, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.model import backbones, classifier, model_file, views
from tfpipe.model.calibration import Calibration
from tfpipe.model.predictor import Predictor
from tfpipe.records import verify
from tfpipe.records.manifest import Manifest
from tfpipe.records.part import Part
from tfpipe.training import resolve, schedules, stages
from tfpipe.training.config import Resolved, TrainConfig
from tfpipe.training.precision import under

LAST = "last"  # folder of the checkpoints
LOCK = "lock"  # file that a training at work in the folder holds

# Options that may change when a run goes on: how long it lasts, where the records lie, and what is
# done with the trained model.
RESUMABLE = (
    *("epochs", "patience", "records", "run_dir", "tta", "calibration"),
    *("buffer_mb", "decode_threads", "max_corrupt", "profile", "shuffle_mb"),
    *("checkpoint_minutes", "feature_cache", "feature_gb", "on_nan", "strategy"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and its configuration."""

    folder: pathlib.Path
    config: TrainConfig
    resolved: Resolved

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their labels."""
        return self.resolved.classes

    @property
    def class_shares(self) -> tuple[float, ...]:
        """The share of each among the training records."""
        return self.resolved.class_shares

    @property
    def records(self) -> str:
        """The folder of the records."""
        return self.config.records

    @property
    def tta(self) -> str:
        """The test-time views."""
        return self.config.tta

    @property
    def out_of_fold(self) -> bool:
        """Whether the predictions are of all images, each by a model that has not seen it."""
        return False

    @property
    def best_weights(self) -> pathlib.Path:
        """The weights that evaluate, predict and export use."""
        return self.folder / "best.weights.h5"

    @property
    def calibration_file(self) -> pathlib.Path:
        """What `tfpipe.runs.run_calibration` writes once the training has ended."""
        return self.folder / "calibration.json"

    @property
    def predictions_file(self) -> pathlib.Path:
        """What it writes beside that."""
        return self.folder / "predictions.csv"

    @property
    def last(self) -> pathlib.Path:
        """The folder of the checkpoints that a training resumes from."""
        return self.folder / LAST

    @property
    def stages(self) -> tuple[stages.Stage, ...]:
        """What is trained, one after the other."""
        return stages.parse(self.config)

    def save_weights(self, built: classifier.Classifier, stage: int, *, best: bool) -> None:
        """Keeps the weights as a stage's best so far, and, if `best` is set, as the run's."""
        path = self._stage_weights(stage)
        path.parent.mkdir(exist_ok=True)
        # Keras chooses the format by the ending, so the partial file has the same one.
        partial = path.with_name(f"{storage.PARTIAL_PREFIX}{path.name}")
        built.model.save_weights(partial)
        partial.replace(path)
        if best:
            with storage.atomic_file(self.best_weights, "wb") as copy, path.open("rb") as file:
                shutil.copyfileobj(file, copy)

    def load_stage(self, built: classifier.Classifier, stage: int) -> None:
        """Sets the weights to a stage's best; raises UserError if they are damaged."""
        self._load(built, self._stage_weights(stage))

    def _stage_weights(self, stage: int) -> pathlib.Path:
        return self.folder / "stages" / f"{self.stages[stage].label}.weights.h5"

    def validation(self, manifest: Manifest) -> Part:
        """Returns the records to validate on; raises UserError as `resolve.parts` does."""
        return resolve.parts(self.config, manifest)[1]

    def model_files(self) -> dict[pathlib.Path, pathlib.Path]:
        """Returns the model files that backbones are cut from, and the run's copy of each."""
        names = [branch["name"] for branch in self.resolved.branches]
        paths = [
            pathlib.Path(model_file.parse(name)[0]) for name in names if model_file.is_cut(name)
        ]
        return {path: self.folder / "backbones" / path.name for path in paths}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other trainings out of the folder, which is made if need be.

        Raises:
            UserError: one is at work there, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / LOCK).open("w")
        except OSError as error:
            raise UserError(f"--run_dir: cannot write {self.folder}: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another tfpipe.train is at work in {self.folder}: wait for it to end, or give"
                    " another --run_dir"
                ) from None
            yield

    def save(self) -> None:
        """Writes the configuration and copies model files, making the folder if need be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for original, copy in self.model_files().items():
                copy.parent.mkdir(exist_ok=True)
                with storage.atomic_file(copy, "wb") as target, original.open("rb") as source:
                    shutil.copyfileobj(source, target)
        except OSError as error:
            raise UserError(f"--run_dir: cannot write {self.folder}: {error.strerror}") from None
        storage.write_json(
            self.folder / "config.json",
            {
                "tfpipe_version": tfpipe.__version__,
                "options": options.to_json(self.config),
                "resolved": options.to_json(self.resolved),
            },
        )

    def build(self, *, first_weights: bool) -> classifier.Classifier:
        """Builds the classifier of this run under the current Keras policy.

        Args:
            first_weights: whether to load the backbones' first weights; not needed where trained
                ones follow. Model files are then read from the run's copies.
        """
        branches = [
            classifier.BackboneConfig(
                branch["name"] if first_weights else self._kept(branch["name"]),
                branch["size"],
                branch["weights"] if first_weights else backbones.NO_WEIGHTS,
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
        )

    def _kept(self, name: str) -> str:
        if not model_file.is_cut(name):
            return name
        path, layer = model_file.parse(name)
        return f"{self.model_files()[pathlib.Path(path)]}@{layer}"

    def identity(self) -> dict[str, str]:
        """Returns what logits follow from; with another value they are another model's.

        Raises:
            UserError: there are no weights yet.
        """
        self._check_trained()
        return {"weights_sha256": verify.sha256(self.best_weights), "tta": self.config.tta}

    def calibrated_for(self) -> dict[str, str]:
        """Returns what a calibration follows from; with another value it is for another model."""
        return self.identity() | {"calibration": self.config.calibration}

    def calibration(self) -> Calibration:
        """Reads `calibration.json`.

        Returns:
            No calibration if there is no file yet, or, with a warning, if it was made for other
            weights or options, as while a finished run is trained further.

        Raises:
            UserError: the file is damaged.
        """
        return read_calibration(self.calibration_file, self.calibrated_for)

    def restore(self, *, tta: str = "") -> Predictor:
        """Returns the predictor of the best weights, as the run is calibrated.

        Args:
            tta: test-time views instead of the run's, "none" for none; empty for the run's.

        Raises:
            UserError: there are no weights yet, or they or the calibration are damaged.
        """
        return dataclasses.replace(self.uncalibrated(tta=tta), calibration=self.calibration())

    def uncalibrated(self, *, tta: str = "") -> Predictor:
        """Does as `restore`, without the calibration."""
        chosen = views.parse(tta or self.config.tta)
        return Predictor(self.restore_classifier(), chosen)

    def restore_classifier(
        self, built: classifier.Classifier | None = None
    ) -> classifier.Classifier:
        """Builds the classifier in float32 and loads the best weights.

        Args:
            built: one of this run in float32, on one device, to load them into instead.

        Raises:
            UserError: there are none yet, or they are damaged.
        """
        self._check_trained()
        if built is not None:
            self._load(built, self.best_weights)
            return built
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


def start(config: TrainConfig, manifest: Manifest, precision: str, xla: bool) -> Run:
    """Opens the run folder for training: a new one, or the same run to be resumed.

    Nothing is written yet; see `Run.save`.

    Raises:
        UserError: training in the folder has begun with other options or other records.
    """
    run = Run(
        pathlib.Path(config.run_dir), config, resolve.resolve(config, manifest, precision, xla)
    )
    if before := begun(config.run_dir):
        _check_same(before, run)
    return run


def begun(run_dir: str) -> Run | None:
    """Opens a run that training would go on with; None if none has begun there."""
    return load(run_dir) if (pathlib.Path(run_dir) / LAST).exists() else None


def load(run_dir: str) -> Run:
    """Opens a run folder for reading; raises UserError if it is none."""
    folder = pathlib.Path(run_dir)
    path = folder / "config.json"
    saved = storage.read_json(
        path, what="a run's configuration", hint="give --run_dir as tfpipe.train was given it"
    )
    if not isinstance(saved, dict) or not {"options", "resolved"} <= set(saved):
        raise UserError(f"{path} is not a run's configuration: run tfpipe.train there again")
    return Run(
        folder,
        options.from_json(TrainConfig, saved["options"], where=str(path)),
        options.from_json(Resolved, saved["resolved"], where=str(path)),
    )


def read_calibration(path: pathlib.Path, made_for: Callable[[], dict] | None = None) -> Calibration:
    """Reads a `calibration.json`; see `Run.calibration`.

    Args:
        path: of the file.
        made_for: gives what it has to be made for; None if that need not be known.
    """
    if not path.is_file():
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


def _check_same(old: Run, new: Run) -> None:
    before, now = dataclasses.asdict(old.config), dataclasses.asdict(new.config)
    fixed = set(before) - set(RESUMABLE)
    if any(schedules.follows_epochs(stage.config.schedule) for stage in new.stages):
        fixed.add("epochs")
    for name in before:
        if name in fixed and before[name] != now[name]:
            raise UserError(
                f"{old.folder} holds a run with --{name}={before[name]}, now {now[name]}: give"
                " another --run_dir, or the same options to resume"
            )
    for original, copy in new.model_files().items():
        if not (copy.is_file() and filecmp.cmp(original, copy, shallow=False)):
            raise UserError(
                f"{original} is not the model file that {old.folder} began with ({copy}): give that"
                " file, or another --run_dir"
            )
    if old.resolved.records_fingerprint != new.resolved.records_fingerprint:
        raise UserError(
            f"{old.folder} was trained on other records than {new.config.records} now holds: give"
            " another --run_dir"
        )
