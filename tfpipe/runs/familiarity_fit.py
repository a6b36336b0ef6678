"""Fits how familiar images are to a run: a distance of features, and its limit.

The limit is a quantile of the validation images' distances, each by a fit without the image, as in
split conformal prediction (Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random
World"): a new image like these is beyond it with a probability of about the reject rate.
"""

import math

import numpy as np
import tensorflow as tf
from sklearn.covariance import LedoitWolf

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.input import pipeline
from tfpipe.model import inference, views
from tfpipe.model.classifier import Classifier
from tfpipe.model.familiarity import Familiarity, unit_length
from tfpipe.model.predictor import Predictor
from tfpipe.records.subset import Subset
from tfpipe.runs import calibration_fit
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.train_config import TrainConfig

# The export holds a matrix of this many rows and columns, at most.
MOST_FEATURES = 4096
_LEAST = 2 * calibration_fit.FOLDS  # images


def check(config: TrainConfig, features: int, images: int, *, many: bool = False) -> None:
    """Raise UserError if `reject_rate` cannot be had; called before hours of training.

    Args:
        config: of the training.
        features: what the head takes, F.
        images: of the validation split.
        many: whether an image may have several classes.
    """
    rate = config.reject_rate
    if not rate:
        return
    if many:
        raise UserError(
            f"`reject_rate={rate:g}` is for images of exactly one class, whose mean is compared;"
            " where images may have several, one of none of the classes reaches no threshold: leave"
            " it out"
        )
    if config.fold >= 0:
        raise UserError(
            f"`reject_rate={rate:g}` is for single runs: the runs of a cross-validation answer"
            " together, and have no features in common: leave it out"
        )
    if features > MOST_FEATURES:
        raise UserError(
            f"`reject_rate={rate:g}` takes at most {MOST_FEATURES:,} features, and the backbones"
            f" give {features:,}: use `pooling=avg`"
        )
    if images < (least := least_images(rate)):
        possible = math.ceil(1000 / (images + 1)) / 1000
        higher = f", or give at least {possible:g}" if images >= _LEAST else ""
        raise UserError(
            f"`reject_rate={rate:g}` needs at least {least:,} validation images, there are"
            f" {images:,}: split off more{higher}"
        )


def least_images(rate: float) -> int:
    """Return how many images a limit needs that a share `rate` of images is beyond."""
    return max(_LEAST, math.ceil(1 / rate - 1e-9) - 1)


def fit(features: np.ndarray, labels: np.ndarray, rate: float) -> Familiarity:
    """Fit a familiarity to images that the model was not trained on.

    The covariance is shrunk (Ledoit and Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices"), so that it may have more features than images.

    Args:
        features: float32 [n, F], n at least `least_images(rate)`.
        labels: int [n].
        rate: the share of such images that is beyond the limit.
    """
    fold = calibration_fit.folds(len(labels))
    distances = np.empty(len(labels))
    for number in range(calibration_fit.FOLDS):
        test = fold == number
        part = _fit(features[~test], labels[~test], 1.0, rate)
        distances[test] = part.distances(features[test])
    # The smallest limit that has the share, with the new image among the others.
    place = math.ceil((len(labels) + 1) * (1 - rate) - 1e-9)
    limit = float(np.sort(distances)[min(place, len(labels)) - 1])
    return _fit(features, labels, max(limit, np.finfo(np.float32).tiny), rate)


def _fit(features: np.ndarray, labels: np.ndarray, limit: float, rate: float) -> Familiarity:
    rows = unit_length(features.astype(np.float64)).numpy()
    center = rows.mean(0)
    rows -= center
    names, own = np.unique(labels, return_inverse=True)
    means = np.stack([rows[own == place].mean(0) for place in range(len(names))])
    found = LedoitWolf(assume_centered=True).fit(rows - means[own])
    # Features that are all alike have no variance; any other value is far away.
    covariance = found.covariance_ + np.eye(rows.shape[1]) * 1e-12
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    matrices = [each.astype(np.float32) for each in (center, whitening, means @ whitening)]
    return Familiarity(*matrices, limit, rate)


def fit_run(run: RunFolder, val: Subset, built: Classifier | None = None) -> None:
    """Fit a run's familiarity on the records that it is validated on, if `reject_rate` asks for it.

    Does nothing if it is there already, or the run has no weights.

    Args:
        run: after its training.
        val: its validation records.
        built: its classifier, whose weights are changed; None builds one.
    """
    if not run.config.reject_rate or not run.best_weights.is_file() or is_current(run):
        return
    predictor = Predictor(run.restore_classifier(built), views.parse(views.NONE))
    batches = pipeline.eval_batches(
        val, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    )
    extract = tf.function(
        lambda images: predictor.features(tf.cast(images, tf.float32)), autograph=False
    )
    found = inference.gather(
        batches,
        val.images,
        "looking what is familiar",
        lambda batch: {"features": extract(batch["image"])},
    )
    fitted = fit(found["features"], found["label"], run.config.reject_rate)
    fitted.save(run.familiarity_file, run.familiarity_for())
    terminal.say(
        f"images of other kinds: {len(found['label']):,} validation images set the limit that"
        f" {run.config.reject_rate:.2%} of such images are beyond"
    )


def is_current(run: RunFolder) -> bool:
    """Return whether the run's familiarity is for its weights and options."""
    try:
        made_for, _ = Familiarity.load(run.familiarity_file)
    except UserError:  # missing, or damaged and made again
        return False
    return made_for == run.familiarity_for()
