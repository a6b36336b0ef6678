"""How far the runs of a cross-validation agree, and what that means for the mean of them.

Out of fold there is one run's answer for each image, but later commands answer with the mean of K
runs. The mean is less noisy, so it needs a lower temperature. For logits z = m + e of a run, where
m is what the runs share and e its own noise, an image that no run was trained on shows the variance
of e, without its label. That of the mean of K runs, x, is then known too, and

    E[x | z] = r z,   Var[x | z] = r (1 - r) Var[z],   r = 1 - (1 - 1 / K) Var[e] / Var[z]

for normal distributions. The scale a of x with the lowest loss of softmax(a x), averaged over x
given z, is that of the mean; the model is that of regression calibration with measurement error
(Carroll, Ruppert, Stefanski and Crainiceanu 2006, "Measurement Error in Nonlinear Models", 4).
"""

import math

import numpy as np
import scipy  # its parts load when they are first used

from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.records.manifest import Manifest
from tfpipe.records.subset import Subset
from tfpipe.runs import calibration_fit
from tfpipe.runs.combination_fit import log_probabilities
from tfpipe.training.run_folder import RunFolder

# Images that show the variance; it is then known within some 5 %.
IMAGES = 500

_DRAWS = 128  # of the mean given a run's logits
_NUMBERS = 4e6  # that a fit takes at most; more images change nothing
_SCALES = (1e-3, 1e3)


def variance(runs: list[RunFolder], manifest: Manifest) -> float | None:
    """Return the variance of one image's logits over the runs of a cross-validation.

    The images are those of a split that is not cross-validated, if there is one. Their labels are
    not used. Otherwise they are of the folds, for the runs that were trained on them: these agree
    more than on new images, so the variance is rather too small.

    Args:
        runs: one for each fold.
        manifest: of their records.

    Returns:
        The mean over images and classes of the logits less their mean over the classes; None if it
        is unknown, as for two runs without another split.
    """
    splits = {runs[0].config.train_split, runs[0].config.val_split}
    unseen = [Subset(manifest, (split,)) for split in manifest.splits if split not in splits]
    for part in unseen:
        if part.images:
            return spread([_logits(run, [part], IMAGES)[0] for run in runs])
    if len(runs) < 3:
        return None
    each = math.ceil(IMAGES / len(runs))
    parts = [run.validation(manifest) for run in runs]
    by_part: list[list[np.ndarray]] = [[] for _ in parts]
    for number, run in enumerate(runs):
        others = [place for place in range(len(parts)) if place != number]
        found = _logits(run, [parts[place] for place in others], each)
        for place, logits in zip(others, found, strict=True):
            by_part[place].append(logits)
    return float(np.mean([spread(found) for found in by_part]))


def _logits(run: RunFolder, parts: list[Subset], images: int) -> list[np.ndarray]:
    """Return a run's logits for about this number of images of each part."""
    predictor = run.uncalibrated()
    size = inference.BATCH_SIZE
    found = []
    for part in parts:
        batches = pipeline.eval_batches(part, image_size=predictor.image_size, batch_size=size)
        count = min(part.images, math.ceil(images / size) * size)
        title = f"how far the runs agree: {run.folder.name} on {part.name}"
        some = batches.take(math.ceil(count / size))
        gathered = inference.predict(predictor, some, count, title)
        logits, labels = gathered["logits"], gathered["label"]
        found.append(calibration_fit.questions(logits, labels, predictor.output)[0])
    return found


def spread(logits: list[np.ndarray]) -> float:
    """Return the variance over the runs, as `variance`, of their logits for the same images."""
    centred = np.stack([_centred(each) for each in logits])
    return float(centred.var(axis=0, ddof=1).mean())


def worth(logits: np.ndarray, labels: np.ndarray, variance: float, members: int) -> float:
    """Return the factor of one run's logits that makes them worth as much as the mean's.

    A calibration that is fitted to the logits times this factor is right for the mean.

    Args:
        logits: out of fold, [n, 1] of a sigmoid or [n, C] of a softmax.
        labels: int [n].
        variance: from the function of that name.
        members: number of runs whose mean answers, K.

    Returns:
        Above 0, and at most 1.
    """
    z = _centred(logits)
    total = z.var(axis=0).mean()
    share = 1 - (1 - 1 / members) * variance / total if total > 0 else 1.0
    share = max(share, 1 / members)  # all of it noise
    if share >= 1:
        return 1.0
    deviation = math.sqrt(share * (1 - share) * total)
    centre = z.mean(axis=0)
    single = _scale(z, labels, 0.0)
    mean = _scale(centre + share * (z - centre), labels, deviation)
    return float(min(single / mean, 1.0))


def _scale(z: np.ndarray, labels: np.ndarray, deviation: float) -> float:
    """Return the scale of logits with the lowest log loss, if they have noise of a deviation."""
    classes = z.shape[1]
    # Evenly spread, and like the logits without a part that all classes share.
    draws = scipy.stats.qmc.MultivariateNormalQMC(np.zeros(classes - 1), seed=0).random(_DRAWS)
    noise = draws @ scipy.linalg.helmert(classes) * deviation / math.sqrt(1 - 1 / classes)
    most = max(1, int(_NUMBERS / noise.size))
    rows = np.random.default_rng(0).permutation(len(z))[:most]
    x, right = z[rows, None] + noise, labels[rows]

    def loss(log_scale: float) -> float:
        found = scipy.special.log_softmax(x * np.exp(log_scale), axis=2)
        of_right = found[np.arange(len(right)), :, right]
        return -scipy.special.logsumexp(of_right, axis=1).mean()

    bounds = tuple(np.log(_SCALES))
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x)


def _centred(logits: np.ndarray) -> np.ndarray:
    found = log_probabilities(logits)
    return found - found.mean(axis=1, keepdims=True)
