"""The screen `labels`: labels that a classifier, trained on the other images, does not believe."""

import collections
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.screens.screen import Images, Options, Screen, Suspect, screens

FOLDS = 5

# Of the squared weights, as scikit-learn's C.
_INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


@screens.register("labels")
class Labels(Screen):
    """Confident learning (Northcutt et al., 2021) on features of a frozen backbone.

    A logistic regression gives each image the probability of its label, in a fold that it was not
    trained on; cleanlab ranks the labels by it. Images that show nothing of any class get a low
    probability too.
    """

    name = "labels"
    question = "Would a classifier that was trained on the other images give another label?"
    score = "1 - the probability of the image's label, from 0 to 1"
    needs = ("cleanlab", "sklearn")

    def __init__(self, options: Options, classes: tuple[str, ...]):
        if len(classes) < 2:
            raise UserError(f"--screens: labels needs two classes, the images have {classes}")
        self._share = options.screen_share
        if not 0 <= self._share <= 1:
            raise UserError(f"--screen_share={self._share:g}: give 0 to 1, as 0.02", status=2)
        from tfpipe.model import backbones, classifier

        name, weights = options.screen_features, options.screen_weights
        if weights == backbones.NO_WEIGHTS:
            raise UserError(
                "--screen_weights=none: random features tell nothing; give imagenet or a file",
                status=2,
            )
        flags = f"--screen_features={name} --screen_weights={weights}"
        try:
            backbone = backbones.get(name)
            branch = classifier.BackboneConfig(name, backbone.input_size, weights)
            self._features = classifier.build(
                [branch], len(classes), pooling="avg", head="", output=classifier.SOFTMAX
            ).features
        except UserError as error:
            raise UserError(f"{flags}: {error}") from None
        self._size = backbone.input_size
        self._key = [backbone.name, _fingerprint(weights)]

    def find(self, images: Images) -> list[Suspect]:
        """Returns the images whose labels are least probable, worst first."""
        from tfpipe.screens import outputs

        features = outputs.compute(
            images,
            lambda batch: self._features(batch, training=False),
            self._size,
            screen=self.name,
            key=self._key,
        )
        labels = np.asarray(images.labels)
        believed = out_of_fold(features, labels, len(images.classes), images.groups)
        order, is_issue = rank(labels, believed)
        listed = order[: round(self._share * len(order))] if self._share else order[is_issue[order]]
        return [
            Suspect(
                index,
                1.0 - float(believed[index, labels[index]]),
                _reason(images.classes, believed[index], is_issue[index]),
            )
            for index in listed.tolist()
        ]


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, classes: int, groups: Sequence[int] | None
) -> np.ndarray:
    """Predicts each image by a logistic regression that was trained without it.

    Of several penalties, the one with the lowest log loss out of fold is taken. The features are
    centred and divided by one common standard deviation, not each by its own, which would blow up
    those that rarely fire. This takes some three times the memory of the features.

    Args:
        features: float32 [N, F].
        labels: int [N].
        classes: how many.
        groups: images with an equal number are never apart, as a duplicate would tell the label.

    Returns:
        Probabilities, float64 [N, classes]. An image is believed, with probability 1, where no
        other of its class was there to train on.

    Raises:
        UserError: no class has an image for each fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if max(collections.Counter(labels.tolist()).values()) < FOLDS:
        raise UserError(
            f"--screens: labels needs {FOLDS} images of a class, {len(labels)} images are too few"
        )
    grouped = groups is not None and len(set(groups)) < len(groups)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    folds = list(kind(FOLDS, shuffle=True, random_state=0).split(features, labels, groups))
    scaled = features - features.mean(axis=0)
    scaled /= max(float(scaled.std()), 1e-12)
    fits = len(_INVERSE_PENALTIES) * FOLDS
    with terminal.progress("screen labels, comparing", fits, "fits") as advance:
        candidates = [
            _predict(scaled, labels, classes, folds, inverse_penalty, advance)
            for inverse_penalty in _INVERSE_PENALTIES
        ]
    return min(candidates, key=lambda probabilities: _log_loss(probabilities, labels))


def _predict(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    inverse_penalty: float,
    advance: Callable[[], None],
) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    probabilities = np.zeros([len(labels), classes])
    for rest, fold in folds:
        seen = np.unique(labels[rest])
        told = fold[np.isin(labels[fold], seen)] if len(seen) > 1 else fold[:0]
        untold = np.setdiff1d(fold, told)
        probabilities[untold, labels[untold]] = 1.0
        if len(told):
            model = LogisticRegression(C=inverse_penalty, max_iter=1000)
            model.fit(features[rest], labels[rest])
            probabilities[np.ix_(told, seen)] = model.predict_proba(features[told])
        advance()
    return probabilities


def _log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-15)).mean())


def rank(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks labels by cleanlab's confident learning.

    Args:
        labels: int [N].
        probabilities: out of fold, float64 [N, C].

    Returns:
        All indices, int [N], the worst label first; and whether cleanlab takes each label for
        wrong, bool [N].
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities)
    # One job, because cleanlab's processes are forks, which do not go with TensorFlow's threads.
    is_issue = find_label_issues(labels, probabilities, n_jobs=1)
    return np.argsort(quality, kind="stable"), is_issue


def _reason(classes: Sequence[str], believed: np.ndarray, is_issue: bool) -> str:
    best = int(believed.argmax())
    verdict = "cleanlab takes the label for wrong" if is_issue else "cleanlab lets the label pass"
    return f"predicted {classes[best]} ({believed[best]:.2f}); {verdict}"


def _fingerprint(weights: str) -> str:
    """Returns what tells one file of weights from another; a name stands for itself."""
    if not os.path.isfile(weights):
        return weights
    return hashlib.sha256(pathlib.Path(weights).read_bytes()).hexdigest()
