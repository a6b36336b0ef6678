"""The end of a training: the best weights' probabilities are fitted to the validation."""

import csv
import os

import numpy as np
import tensorflow as tf

from tfpipe.core import options, storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.evaluation import metrics
from tfpipe.input import pipeline
from tfpipe.model import inference, views
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import Classifier
from tfpipe.model.predictor import Predictor
from tfpipe.model.split import split
from tfpipe.records.subset import Subset
from tfpipe.runs import calibrate
from tfpipe.training.cluster import Cluster
from tfpipe.training.config import TrainConfig
from tfpipe.training.feature_extractor import FeatureExtractor
from tfpipe.training.run_folder import RunFolder


def check(config: TrainConfig, classes: int) -> None:
    """Raises UserError if --tta or --calibration is wrong, before hours of training."""
    views.parse(config.tta)
    calibrate.check(config.calibration, classes)


def finish(run: RunFolder, val: Subset, built: Classifier | None = None) -> None:
    """Calibrates a run on the records that it is validated on.

    Nothing is done if it is calibrated already, or has no weights, as after no epoch.

    Args:
        run: that was trained.
        val: what it was validated on.
        built: its classifier, whose weights are changed; None builds one.
    """
    if not run.best_weights.is_file() or is_current(run):
        return
    predictor = Predictor(run.restore_classifier(built), views.parse(run.config.tta))
    found = _from_features(run, predictor, val)
    if found is None:
        batches = pipeline.eval_batches(
            val, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
        )
        found = inference.predict(predictor, batches, val.images, "calibrating")
    calibrate_on(run, found, predictor.output)


def _from_features(
    run: RunFolder, predictor: Predictor, val: Subset
) -> dict[str, np.ndarray] | None:
    """Returns what `inference.predict` would, if what frozen layers made of the images is kept."""
    if len(predictor.views) > 1 or run.resolved.precision != "float32":
        return None
    classifier = predictor.classifier
    cluster = Cluster(tf.distribute.get_strategy())
    for stage in run.stages:
        parts = split(classifier, stage.start)
        extractor = FeatureExtractor(run, stage.config, classifier, parts, cluster)
        if not extractor.fits(val, 1) or (dataset := extractor.find(val)) is None:
            continue
        dataset = dataset.without_copies()
        logits = [
            parts.trained(dataset.batch(indices)["features"], training=False).numpy()
            for indices in np.array_split(
                np.arange(len(dataset)), -(-len(dataset) // inference.BATCH_SIZE)
            )
        ]
        images = [fields for fields in val.records() if not fields.copy]
        names = [fields.filename.encode("utf-8", "surrogateescape") for fields in images]
        return {
            "name": np.array(names, object),
            "label": np.array([fields.label for fields in images], np.int64),
            "logits": np.concatenate(logits),
        }
    return None


def is_current(run: RunFolder) -> bool:
    """Returns whether the run is calibrated for the weights and options that it has."""
    if not (run.calibration_file.is_file() and run.predictions_file.is_file()):
        return False
    try:
        saved = storage.read_json(run.calibration_file, what="a calibration", hint="remove it")
    except UserError:  # damaged, so made anew
        return False
    return isinstance(saved, dict) and saved.get("made_for") == run.calibrated_for()


def calibrate_on(run: RunFolder, found: dict[str, np.ndarray], output: str) -> None:
    """Calibrates a run on images that it was not trained on.

    Writes `predictions.csv` and then `calibration.json` into its folder, and says what is gained.

    Args:
        run: with its best weights.
        found: "name" bytes [n], "label" int [n] and "logits" float32 [n, 1 or C] of the images,
            by these weights and the run's views, not calibrated.
        output: of the classifier.
    """
    logits, labels = found["logits"], found["label"]
    calibration = calibrate.fit(logits, labels, output, run.config.calibration)
    found_by = steps(calibration, logits, output)
    losses = {name: metrics.log_loss(values, labels) for name, values in found_by.items()}
    probabilities = found_by["log_loss"]
    write_predictions(run.predictions_file, run.classes, found | {"probabilities": probabilities})
    storage.write_json(
        run.calibration_file,
        {
            "calibration": options.to_json(calibration),
            "made_for": run.calibrated_for(),
            "n": len(labels),
            **losses,
        },
    )
    terminal.say(
        f"calibration {calibration}: val log loss {losses['log_loss_raw']:.4f}, calibrated"
        f" {losses['log_loss_calibrated']:.4f}, clipped {losses['log_loss']:.4f}; accuracy"
        f" {metrics.accuracy(probabilities, labels):.4f}"
    )


def steps(calibration: Calibration, logits: np.ndarray, output: str) -> dict[str, np.ndarray]:
    """Returns the probabilities float32 [n, C] before, amid and after calibration.

    Args:
        calibration: whose steps they are.
        logits: float32 [n, 1 or C].
        output: of the classifier.

    Returns:
        By the names that `metrics.json` has for their log loss.
    """
    known = {
        "log_loss_raw": Calibration(),
        "log_loss_calibrated": calibration.unclipped,
        "log_loss": calibration,
    }
    return {name: step.apply(logits, output).numpy() for name, step in known.items()}


def write_predictions(
    path: str | os.PathLike, classes: tuple[str, ...], found: dict[str, np.ndarray]
) -> None:
    """Writes the predictions of labelled images as a CSV, whole or not at all.

    The columns are `name`, escaped to one line; `label`, the index of the right class;
    `probability_CLASS` for each class; and `logit_CLASS` for each, of a sigmoid for the second
    only. Nine significant digits keep a float32 exactly.

    Args:
        path: of the CSV.
        classes: names in the order of their labels.
        found: "name", "label", "probabilities" and "logits" of `inference.predict`.
    """
    logits = found["logits"]
    of_logits = classes[1:] if logits.shape[1] == 1 else classes
    header = [f"probability_{name}" for name in classes] + [f"logit_{name}" for name in of_logits]
    numbers = np.concatenate([found["probabilities"], logits], axis=1)
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "label", *header])
        for name, label, row in zip(found["name"], found["label"], numbers, strict=True):
            text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
            text = one_line(text)
            writer.writerow([text, label, *(f"{value:.9g}" for value in row)])


def read_predictions(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `write_predictions` wrote.

    Returns:
        "name" str [n], "label" int64 [n], "probabilities" float32 [n, C], "logits" float32
        [n, 1 or C].

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        values = np.array([row[2:] for row in rows], np.float32)
        classes = sum(name.startswith("probability_") for name in header)
        labels = np.array([row[1] for row in rows], np.int64)
        found = {
            "name": np.array([row[0] for row in rows]),
            "label": labels,
            "probabilities": values[:, :classes],
            "logits": values[:, classes:],
        }
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read ({error}): run tfpipe.train there again") from None
    if not (np.isfinite(values).all() and (labels >= 0).all() and (labels < classes).all()):
        raise UserError(
            f"{path} is damaged: it has a number that is none, or a label that is no class: run"
            " tfpipe.train there again"
        )
    return found
