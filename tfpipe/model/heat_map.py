"""Where in an image a classifier sees the class that it names: class-activation maps.

Each place of a feature map speaks for a class by its activations, weighted by the gradient of the
class's score with respect to them (HiResCAM, Draelos and Carin, arXiv:2011.08891, equation 5). For
averaged features and a linear head this is the class-activation map of Zhou et al.
(arXiv:1512.04150), of which the logit is the mean.
"""

import tensorflow as tf

from tfpipe.model.classifier import SIGMOID, Classifier, as_list
from tfpipe.model.ensemble import EnsemblePredictor, resized
from tfpipe.model.predictor import Predictor


def heat_maps(
    predictor: Predictor | EnsemblePredictor, images: tf.Tensor, classes: tf.Tensor
) -> tf.Tensor:
    """Shows what speaks for a class, in the image itself, without test-time views.

    Args:
        predictor: whose classifiers are asked; of an ensemble, the mean over its members.
        images: uint8 or float32 [N, S, S, 3], RGB in 0..255.
        classes: int64 [N], the class that each image is asked about.

    Returns:
        float32 [N, S, S] in 0..1: 1 where most speaks for the class, and 0 where nothing does, or
        what is there speaks against it.
    """
    heat = tf.nn.relu(_evidence(predictor, tf.cast(images, tf.float32), classes))
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, [1, 2], keepdims=True))


def _evidence(
    predictor: Predictor | EnsemblePredictor, images: tf.Tensor, classes: tf.Tensor
) -> tf.Tensor:
    """Returns float32 [N, S, S] of any size and sign."""
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
        for tower in classifier.towers:
            found = as_list(tower.backbone(tower.prepare(images), training=False))
            tape.watch(found)
            maps += found
            vectors += tower.pool(found)
        logits = classifier.head(tf.concat(vectors, -1), training=False)
        score = _score(logits, classes, classifier.output)
    heat = tf.zeros_like(images[..., 0])
    for each, gradient in zip(maps, tape.gradient(score, maps), strict=True):
        if each.shape.rank == 4:  # a backbone may give a vector, which is nowhere
            heat += _upsampled(tf.reduce_sum(each * gradient, -1), images)
    return heat


def _score(logits: tf.Tensor, classes: tf.Tensor, output: str) -> tf.Tensor:
    """Returns what grows with a class's probability, [N]; of a sigmoid its log-odds."""
    if output == SIGMOID:
        return tf.where(classes == 1, logits[:, 0], -logits[:, 0])
    # What all logits have in common makes no class more probable.
    return tf.gather(logits, classes, batch_dims=1) - tf.reduce_mean(logits, -1)


def _upsampled(heat: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Resizes [N, h, w] to the images' [N, S, S], bilinearly."""
    side = images.shape[1]
    return tf.image.resize(tf.cast(heat, tf.float32)[..., tf.newaxis], [side, side])[..., 0]
