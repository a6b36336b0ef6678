"""The screen `imagenet`: nothing that was expected is among a classifier's first guesses."""

import re
from collections.abc import Iterable

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.screens.screen import Images, Options, Screen, Suspect, screens

CLASSES = 1000  # of ILSVRC 2012
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_HOW = "give ImageNet classes for each class, as in cat:281-285,dog:151-268 or boat:472+554+814"


@screens.register("imagenet")
class ImageNet(Screen):
    """Lists an image if no expected class, whatever its label, is in the top k.

    A cat labelled dog shows something expected; the screen `labels` is for that.
    """

    name = "imagenet"
    question = "Does an ImageNet classifier see nothing in the image that any class should show?"
    score = "rank of the first expected ImageNet class among the classifier's guesses, from 1"

    def __init__(self, options: Options, classes: tuple[str, ...]):
        self._expected = parse_classes(options.screen_classes, classes)
        self._top_k = options.screen_top_k
        if not 1 <= self._top_k < CLASSES:
            raise UserError(
                f"--screen_top_k={self._top_k}: give 1 to {CLASSES - 1}, as 20", status=2
            )
        from tfpipe.screens import imagenet_model

        self._model = imagenet_model.load(options.screen_model)

    def find(self, images: Images) -> list[Suspect]:
        """Returns the images without an expected class in the top k, worst first."""
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
        return [_suspect(index, guesses[index]) for index in order.tolist()]


def _suspect(index: int, guess: np.ndarray) -> Suspect:
    place, expected, first = (int(value) for value in guess)
    return Suspect(
        index,
        float(place),
        f"the first guess is ImageNet class {first}, the first expected one is class {expected}",
    )


def rank(scores, wanted: list[int]):
    """Ranks the wanted classes among all.

    Args:
        scores: of each class, float32 [B, C], the higher the more probable.
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


def parse_classes(text: str, classes: Iterable[str]) -> dict[str, set[int]]:
    """Parses "cat:281-285,dog:151-268" into ImageNet classes for each class of the data set.

    Raises:
        UserError: the text has another form, or names a class that is not in `classes`.
    """
    flag = f"--screen_classes={text}"
    if not text.strip():
        raise UserError(f"--screens: imagenet needs --screen_classes; {_HOW}")
    expected: dict[str, set[int]] = {}
    for part in text.split(","):
        name, _, ranges = (piece.strip() for piece in part.rpartition(":"))
        if name not in classes:
            raise UserError(
                f"{flag}: {name!r} is not a class of the images ({', '.join(classes)}); {_HOW}"
            )
        if name in expected:
            raise UserError(f"{flag}: {name!r} is there twice; {_HOW}")
        expected[name] = set()
        for piece in ranges.split("+"):
            match = _RANGE.fullmatch(piece.strip())
            first, last = (int(n) for n in (match[1], match[2] or match[1])) if match else (1, 0)
            if not first <= last < CLASSES:
                raise UserError(
                    f"{flag}: {piece.strip()!r} is not a class or a range in 0..{CLASSES - 1};"
                    f" {_HOW}"
                )
            expected[name].update(range(first, last + 1))
    return expected
