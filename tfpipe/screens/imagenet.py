"""The screen `imagenet`: no expected class is among an ImageNet classifier's top guesses."""

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.screens import imagenet_classes
from tfpipe.screens.screen import Options, Screen, ScreenedImages, Suspect, screens


@screens.register("imagenet")
class ImageNet(Screen):
    """Lists an image if its top k guesses contain no expected class of any label.

    An image of a cat with the label dog passes; the screen `labels` finds such images.
    """

    name = "imagenet"
    question = "Does an ImageNet classifier see none of the expected classes in the image?"
    score = "rank of the first expected ImageNet class among the classifier's guesses, from 1"

    def __init__(self, options: Options, classes: tuple[str, ...]):
        self._expected = imagenet_classes.parse(options.screen_classes, classes)
        self._top_k = options.screen_top_k
        most = imagenet_classes.CLASSES - 1
        if not 1 <= self._top_k <= most:
            raise UserError(f"`screen_top_k={self._top_k}`: give 1 to {most}, such as 20", status=2)
        from tfpipe.screens import imagenet_model

        self._model = imagenet_model.load(options.screen_model)

    def find(self, images: ScreenedImages) -> list[Suspect]:
        """Return the images without an expected class in the top k, worst first."""
        from tfpipe.screens import outputs

        wanted = sorted(set().union(*self._expected.values()))
        guesses = outputs.compute(
            images,
            lambda batch: rank(self._model.classify(batch), wanted),
            self._model.size,
            screen=self.name,
            key=[self._model.fingerprint, wanted],
        )
        named = np.array([images.classes[label] in self._expected for label in images.labels])
        listed = np.flatnonzero(named & (guesses[:, 0] > self._top_k))
        order = listed[np.argsort(-guesses[listed, 0], kind="stable")]
        return [
            Suspect(
                index,
                float(place),
                f"the top guess is ImageNet class {first}, the first expected one is class"
                f" {expected}",
            )
            for index, (place, expected, first) in zip(
                order.tolist(), guesses[order].astype(int).tolist(), strict=True
            )
        ]


def rank(scores, wanted: list[int]):
    """Rank the wanted classes among all classes.

    Args:
        scores: float32 [B, C], higher for more probable classes.
        wanted: at least one class.

    Returns:
        float32 [B, 3]: the rank of the best wanted class, from 1; that class; the best class.
    """
    import tensorflow as tf

    own = tf.gather(scores, wanted, axis=1)
    best = tf.reduce_max(own, axis=1, keepdims=True)
    above = tf.reduce_sum(tf.cast(scores > best, tf.int32), axis=1)
    expected = tf.gather(wanted, tf.argmax(own, axis=1))
    first = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.cast(tf.stack([above + 1, expected, first], axis=1), tf.float32)
