"""Heat maps: which places of an image raise the score of a class (class-activation maps).

The evidence at a place is the sum of its activations times the gradient of the class's score with
respect to them (HiResCAM, Draelos and Carin, arXiv:2011.08891, equation 5). For averaged features
and a linear head this is the class-activation map of Zhou et al. (arXiv:1512.04150); its mean is
the logit.
"""

import tensorflow as tf

from tfpipe.model.classifier import SIGMOID, SIGMOIDS, Classifier, as_list
from tfpipe.model.predictor import EnsemblePredictor, Predictor, resized


def heat_maps(
    predictor: Predictor | EnsemblePredictor, images: tf.Tensor, classes: tf.Tensor
) -> tf.Tensor:
    """Return heat maps of images, without test-time views; of an ensemble, the members' mean.

    Args:
        predictor: whose decision to explain.
        images: uint8 or float32 [N, S, S, 3], RGB in 0..255.
        classes: int64 [N], the class to explain for each image.

    Returns:
        float32 [N, S, S] in 0..1: 1 at the strongest evidence for the class, 0 where there is none
        or it is negative.
    """
    heat = tf.nn.relu(_evidence(predictor, tf.cast(images, tf.float32), classes))
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, [1, 2], keepdims=True))


def _evidence(
    predictor: Predictor | EnsemblePredictor, images: tf.Tensor, classes: tf.Tensor
) -> tf.Tensor:
    """Return float32 [N, S, S] of any size and sign."""
    if isinstance(predictor, Predictor):
        return _of_classifier(predictor.classifier, images, classes)
    found = [
        _upsampled(_evidence(member, resized(images, member.image_size), classes), images)
        for member in predictor.members
    ]
    return tf.add_n(found) / len(found)


def _of_classifier(classifier: Classifier, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        maps, vectors = [], []
        for backbone in classifier.backbones:
            found = as_list(backbone.model(backbone.prepare(images), training=False))
            tape.watch(found)
            maps += found
            vectors += backbone.pool(found)
        logits = classifier.head(tf.concat(vectors, -1), training=False)
        score = _score(logits, classes, classifier.output)
    heat = tf.zeros_like(images[..., 0])
    for each, gradient in zip(maps, tape.gradient(score, maps), strict=True):
        if each.shape.rank == 4:  # a vector has no places
            heat += _upsampled(tf.reduce_sum(each * gradient, -1), images)
    return heat


def _score(logits: tf.Tensor, classes: tf.Tensor, output: str) -> tf.Tensor:
    """Return a score [N] that grows with a class's probability; of a sigmoid its log-odds."""
    if output == SIGMOID:
        return tf.where(classes == 1, logits[:, 0], -logits[:, 0])
    if output == SIGMOIDS:  # the other classes do not matter
        return tf.gather(logits, classes, batch_dims=1)
    # A common offset of all logits changes no probability.
    return tf.gather(logits, classes, batch_dims=1) - tf.reduce_mean(logits, -1)


def _upsampled(heat: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Resize [N, h, w] to the images' [N, S, S], bilinearly."""
    side = images.shape[1]
    return tf.image.resize(tf.cast(heat, tf.float32)[..., tf.newaxis], [side, side])[..., 0]
