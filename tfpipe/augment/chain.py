"""A chain of augmentations: parsed once, applied to batches."""

from typing import Any, overload

import tensorflow as tf

from tfpipe.augment import geometry
from tfpipe.augment.operation import Kind
from tfpipe.augment.policies import Step, flatten
from tfpipe.augment.warp import warp
from tfpipe.core import spec
from tfpipe.core.errors import UserError


class Augment:
    """An augmentation of batches on the device; `tfpipe.Augment`.

    Call it on batches in a step of your own, which XLA may compile, or in `Dataset.map`:

        augment = tfpipe.Augment("flip_lr|rotate(15)|brightness(0.2)")
        images = augment(images)
        images, labels = augment(images, labels)

    Attributes:
        num_random: uniform numbers that it takes for each image.
        mixes: whether it mixes pictures, and so changes labels.
        crops_on_host: whether the host does the crop at the beginning of the chain.
    """

    def __init__(self, text: str, *, crop_on_host: bool = False):
        """Parse a spec, blank for no change; raise UserError if it is wrong.

        With `crop_on_host` the input pipeline cuts images to `window` before it resizes them, which
        saves decoding. A crop at the beginning of the chain is then omitted here.
        """
        chain = spec.parse(text, option="augment")
        steps, self.num_random = flatten(chain)
        self._is_empty = not chain
        self._first_crop = steps[0] if chain and chain[0].name == "crop" else None
        self.crops_on_host = crop_on_host and self._first_crop is not None
        if self.crops_on_host:
            steps = steps[1:]
        self._steps: dict[Kind, list[Step]] = {
            kind: [step for step in steps if step.operation.kind == kind] for kind in Kind
        }
        self.mixes = bool(self._steps[Kind.MIXING])

    def __bool__(self) -> bool:
        return not self._is_empty

    def window(self, u: tf.Tensor) -> tf.Tensor:
        """Return the part of an image that the host keeps, for u float32 [..., num_random].

        It is float32 [..., 4]: top, left, height and width as fractions; [4], the whole image,
        unless `crops_on_host`.
        """
        if not self.crops_on_host:
            return tf.constant([0.0, 0.0, 1.0, 1.0])
        return geometry.crop_window(u[..., :2], *self._first_crop.call.args)

    @overload
    def __call__(
        self, images: tf.Tensor, labels: None = None, u: tf.Tensor | None = None, **how: Any
    ) -> tf.Tensor: ...

    @overload
    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, u: tf.Tensor | None = None, **how: Any
    ) -> tuple[tf.Tensor, tf.Tensor]: ...

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor | None = None,
        u: tf.Tensor | None = None,
        *,
        seed: tf.Tensor | None = None,
        side: int | None = None,
        sizes: tf.Tensor | None = None,
    ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Augment a batch; compile it with `tf.function(..., jit_compile=True)`.

        Args:
            images: uint8 or float [N, H, W, 3], RGB in 0..255, or with `sizes` [N, P, 3]; of less
                than 2**31 pixels.
            labels: any labels [N, ...]; where the chain mixes images, float [N, C], probabilities.
            u: float32 [N, num_random] in [0, 1); drawn anew in each call if None.
            seed: integers [2]; equal ones draw equal numbers, as `tf.random.stateless_uniform`.
                XLA draws others than a plain graph.
            side: of the result in pixels; H if None.
            sizes: int32 [N, 2], height and width of pictures whose pixels `images` holds row by
                row. The one interpolation of all geometry also resizes them to `side`.

        Returns:
            images, float32 [N, side, side, 3] in 0..255; with `labels` a pair of them and the
            labels, float32 [N, C] if the chain mixes images.

        Raises:
            UserError: the images are not square, the chain mixes labels that are no probabilities,
                or `u` has another shape.
        """
        images = tf.convert_to_tensor(images)
        if side is None and (len(images.shape) != 4 or images.shape[1] != images.shape[2]):
            raise UserError(f"images of shape {images.shape} are not square: give `side` in pixels")
        u = self._numbers(tf.shape(images)[0], u, seed)
        images = self._sampled(images, u, side, sizes)
        for step in self._steps[Kind.COLOR] + self._steps[Kind.OVERLAY]:
            changed = step.operation.function(images, step.numbers(u), *step.call.args)
            images = step.choose(u, changed, images)
        if self._steps[Kind.COLOR] or self._steps[Kind.OVERLAY]:
            images = tf.clip_by_value(images, 0.0, 255.0)
        if self.mixes:
            labels = self._probabilities(labels)
            partners = tf.roll(images, -1, 0), tf.roll(labels, -1, 0)
        for step in self._steps[Kind.MIXING]:
            inputs = (images, labels, *partners, step.numbers(u), *step.call.args)
            mixed_images, mixed_labels = step.operation.function(*inputs)
            images = step.choose(u, mixed_images, images)
            labels = step.choose(u, mixed_labels, labels)
        return images if labels is None else (images, labels)

    def _numbers(self, count: tf.Tensor, u: tf.Tensor | None, seed: tf.Tensor | None) -> tf.Tensor:
        shape = [count, self.num_random]
        if u is None:
            if seed is None:
                return tf.random.uniform(shape)
            return tf.random.stateless_uniform(shape, seed)
        u = tf.convert_to_tensor(u)
        if len(u.shape) != 2 or (u.shape[1] or 0) < self.num_random:
            raise UserError(
                f"`u` has the shape {u.shape}, not [N, {self.num_random}]: give it random numbers,"
                " or only images and labels, without weights"
            )
        return u

    def _probabilities(self, labels: tf.Tensor | None) -> tf.Tensor:
        if labels is not None:
            labels = tf.convert_to_tensor(labels)
        if labels is None or len(labels.shape) != 2 or not labels.dtype.is_floating:
            raise UserError(
                "this augmentation mixes images, and so labels: give labels of float [N, C], as of"
                " tf.one_hot"
            )
        return tf.cast(labels, tf.float32)

    def _sampled(
        self, images: tf.Tensor, u: tf.Tensor, side: int | None, sizes: tf.Tensor | None
    ) -> tf.Tensor:
        """Apply the resize and all geometry; return float32 [N, side, side, 3]."""
        side = side or images.shape[1]
        matrix = nothing = geometry.identity(tf.shape(images)[0])
        for step in self._steps[Kind.GEOMETRY]:
            own = step.operation.function(step.numbers(u), side, *step.call.args)
            # The first in the chain acts first on the image: its output-to-input map comes last.
            matrix = tf.matmul(matrix, step.choose(u, own, nothing))
        if not self._steps[Kind.GEOMETRY] and sizes is None and images.shape[1:3] == [side, side]:
            return tf.cast(images, tf.float32)
        windows = None
        if self._first_crop and not self.crops_on_host:
            # Beyond the window its edge is used, as after a crop on the host.
            windows = geometry.crop_window(u[:, :2], *self._first_crop.call.args)
        return warp(images, matrix, side, sizes, windows)
