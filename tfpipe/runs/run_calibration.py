"""Calibrates a run: fits the probabilities of its best weights to the validation images."""

import numpy as np
import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import metrics, threshold
from tfpipe.input import pipeline
from tfpipe.model import inference, views
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import Classifier
from tfpipe.model.partition import partition
from tfpipe.model.predictor import Predictor
from tfpipe.records.subset import Subset
from tfpipe.runs import calibration_fit, predictions_file
from tfpipe.training.cluster import Cluster
from tfpipe.training.feature_extractor import FeatureExtractor
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.train_config import TrainConfig


def check(config: TrainConfig, classes: int, *, many: bool = False) -> None:
    """Raise UserError for wrong `tta` or `calibration`; called before hours of training."""
    views.parse(config.tta)
    calibration_fit.check(config.calibration, classes, many=many)


def calibrate(run: RunFolder, val: Subset, built: Classifier | None = None) -> None:
    """Calibrate a run on the records that it is validated on.

    Does nothing if the run is calibrated already, or has no weights, as after no epoch.

    Args:
        run: after its training.
        val: its validation records.
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
    """Return what `inference.predict` would, from cached features; None if there are none."""
    if len(predictor.views) > 1 or run.resolved.precision != "float32":
        return None
    classifier = predictor.classifier
    cluster = Cluster(tf.distribute.get_strategy())
    for stage in run.stages:
        parts = partition(classifier, stage.start)
        extractor = FeatureExtractor(run, stage.config, classifier, parts, cluster)
        if not extractor.fits(val, 1) or (dataset := extractor.find(val)) is None:
            continue
        dataset = dataset.without_copies()
        batches = -(-len(dataset) // inference.BATCH_SIZE)
        logits = [
            parts.trained(dataset.batch(indices)["features"], training=False).numpy()
            for indices in np.array_split(np.arange(len(dataset)), batches)
        ]
        images = [fields for fields in val.records() if not fields.copy]
        return {
            "name": np.array([fields.filename for fields in images], object),
            "label": val.manifest.encoding.encode(images),
            "logits": np.concatenate(logits),
        }
    return None


def is_current(run: RunFolder) -> bool:
    """Return whether the run is calibrated for its weights and options."""
    if not (run.calibration_file.is_file() and run.predictions_file.is_file()):
        return False
    try:
        saved = storage.read_json(run.calibration_file, what="a calibration", hint="remove it")
    except UserError:  # damaged, so it is made again
        return False
    return isinstance(saved, dict) and saved.get("made_for") == run.calibrated_for()


def calibrate_on(run: RunFolder, found: dict[str, np.ndarray], output: str) -> None:
    """Calibrate a run on images that it was not trained on.

    Writes `predictions.csv` and then `calibration.json` into its folder, and prints the gain.

    Args:
        run: with its best weights.
        found: "name" bytes or str [n], "label" int [n] or [n, C], and "logits" float32 [n, 1 or C],
            by the best weights and the run's views, not calibrated.
        output: of the classifier.
    """
    logits, labels = found["logits"], found["label"]
    method = calibration_fit.Method(run.config.calibration, run.config.calibration_bounds)
    calibration = calibration_fit.fit(logits, labels, output, method)
    found_by = steps(calibration, logits, output)
    losses = {name: metrics.log_loss(values, labels) for name, values in found_by.items()}
    probabilities = found_by["log_loss"]
    predictions = found | {"probabilities": probabilities}
    predictions_file.write(run.predictions_file, run.classes, predictions)
    storage.write_json(
        run.calibration_file,
        {
            "calibration": calibration.to_json(),
            "made_for": run.calibrated_for(),
            "n": len(labels),
            **losses,
            **threshold.saved(run.classes, probabilities, labels),
        },
    )
    names = {"log_loss_raw": "", "log_loss_calibrated": "calibrated ", "log_loss": "clipped "}
    if "log_loss_calibrated" not in losses:
        names["log_loss"] = "calibrated "
    shown = ", ".join(f"{names[key]}{loss:.4f}" for key, loss in losses.items())
    terminal.say(
        f"calibration {calibration}: val log loss {shown};"
        f" {'accuracy' if labels.ndim == 1 else 'all classes right at 0.5:'}"
        f" {metrics.accuracy(probabilities, labels):.4f}"
    )


def steps(calibration: Calibration, logits: np.ndarray, output: str) -> dict[str, np.ndarray]:
    """Return probabilities float32 [n, C] before, between and after the steps of a calibration.

    Args:
        calibration: with one step, scaling, or with two, scaling and clipping.
        logits: float32 [n, 1 or C].
        output: of the classifier.

    Returns:
        The probabilities by the key of their log loss in `metrics.json`.
    """
    known = {"log_loss_raw": Calibration()}
    if calibration != calibration.unclipped:
        known["log_loss_calibrated"] = calibration.unclipped
    known["log_loss"] = calibration
    return {name: step.apply(logits, output).numpy() for name, step in known.items()}
