"""The screen `labels`: labels that a classifier trained on the other images contradicts."""

import collections
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.screens.screen import Options, Screen, ScreenedImages, Suspect, screens

FOLDS = 5

# Candidates for scikit-learn's C, the inverse strength of the L2 penalty.
_INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


@screens.register("labels")
class Labels(Screen):
    """Confident learning (Northcutt et al., 2021) on features of a frozen backbone.

    A logistic regression predicts each image in a fold that it was not trained on, and cleanlab
    ranks the labels by these probabilities. Images without any class get a low probability too.
    """

    name = "labels"
    question = "Does a classifier that was trained on the other images predict another label?"
    score = "1 - the probability of the image's label, from 0 to 1"
    needs = ("cleanlab", "sklearn")

    def __init__(self, options: Options, classes: tuple[str, ...]):
        if len(classes) < 2:
            raise UserError(f"the screen labels needs two classes, the images have {classes}")
        self._share = options.screen_share
        if not 0 <= self._share <= 1:
            raise UserError(f"`screen_share={self._share:g}`: give 0 to 1, such as 0.02", status=2)
        from tfpipe.model import backbones, classifier

        name, weights = options.screen_features, options.screen_weights
        if weights == backbones.NO_WEIGHTS:
            raise UserError(
                "`screen_weights=none`: random features are useless here; give imagenet or a file",
                status=2,
            )
        where = f"`screen_features={name}` with `screen_weights={weights}`"
        try:
            backbone = backbones.get(name)
            branch = classifier.BackboneConfig(name, backbone.input_size, weights)
            self._features = classifier.build(
                [branch], len(classes), pooling="avg", head="", output=classifier.SOFTMAX
            ).features
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        self._size = backbone.input_size
        self._key = [backbone.name, _fingerprint(weights)]

    def find(self, images: ScreenedImages) -> list[Suspect]:
        """Return the images with the least probable labels, worst first."""
        from tfpipe.screens import outputs

        features = outputs.compute(
            images,
            lambda batch: self._features(batch, training=False),
            self._size,
            screen=self.name,
            key=self._key,
        )
        labels = np.asarray(images.labels)
        probabilities = out_of_fold(features, labels, len(images.classes), images.groups)
        order, is_issue = rank(labels, probabilities)
        listed = order[: round(self._share * len(order))] if self._share else order[is_issue[order]]
        return [
            Suspect(
                index,
                1.0 - float(probabilities[index, labels[index]]),
                _reason(images.classes, probabilities[index], is_issue[index]),
            )
            for index in listed.tolist()
        ]


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, classes: int, groups: Sequence[int] | None
) -> np.ndarray:
    """Predict each image by a logistic regression that was trained without it.

    The penalty with the lowest out-of-fold log loss wins. The features are centred and divided by
    one common standard deviation: one for each would amplify features that rarely fire. This takes
    about three times the memory of the features.

    Args:
        features: float32 [N, F].
        labels: int [N].
        classes: how many.
        groups: images with equal numbers stay in one fold, because a duplicate reveals the label.

    Returns:
        Probabilities, float64 [N, classes]. A label gets probability 1 where no other image of its
        class was available for training.

    Raises:
        UserError: no class has an image for each fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if max(collections.Counter(labels.tolist()).values()) < FOLDS:
        raise UserError(
            f"the screen labels needs {FOLDS} images of a class, {len(labels)} images are too few"
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
        known = fold[np.isin(labels[fold], seen)] if len(seen) > 1 else fold[:0]
        unknown = np.setdiff1d(fold, known)
        probabilities[unknown, labels[unknown]] = 1.0
        if len(known):
            model = LogisticRegression(C=inverse_penalty, max_iter=1000)
            model.fit(features[rest], labels[rest])
            probabilities[np.ix_(known, seen)] = model.predict_proba(features[known])
        advance()
    return probabilities


def _log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-15)).mean())


def rank(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank labels by cleanlab's confident learning.

    Args:
        labels: int [N].
        probabilities: out of fold, float64 [N, C].

    Returns:
        All indices, int [N], the worst label first; and which labels cleanlab considers wrong,
        bool [N].
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities)
    # One job: cleanlab forks its processes, which is not safe beside TensorFlow's threads.
    is_issue = find_label_issues(labels, probabilities, n_jobs=1)
    return np.argsort(quality, kind="stable"), is_issue


def _reason(classes: Sequence[str], probabilities: np.ndarray, is_issue: bool) -> str:
    best = int(probabilities.argmax())
    verdict = "wrong" if is_issue else "plausible"
    return f"predicted {classes[best]} ({probabilities[best]:.2f}); cleanlab: label {verdict}"


def _fingerprint(weights: str) -> str:
    """Return the hash of a file of weights; other names identify themselves."""
    if not os.path.isfile(weights):
        return weights
    return hashlib.sha256(pathlib.Path(weights).read_bytes()).hexdigest()
