"""Device-side augmentation: a spec string becomes one function over a batch.

    "rotate(15)|zoom(0.9,1.1)|flip_lr|maybe(0.5,blur)|brightness(0.2)|mixup(0.2)"

Each operation is a pure function of the batch and of random numbers that the input pipeline makes
for each example. So a picture depends only on (seed, epoch, example), or with mixing also on its
neighbour in the batch, and all of it compiles under XLA.

Geometry always comes first: the matrices of a chain are multiplied, and the image is sampled once.
Then colours and blur follow in their order, then noise and cutout, and mixing last.

To add an operation, write a function and register it; `Kind` says what it takes and returns:

    @operation("invert", num_random=1, kind=Kind.COLOR)
    def _invert(images, u, chance=0.5):
        '''`invert`: inverts colours with that probability.'''
"""

from tfpipe.augment import boxes, color, geometry, mixing, noise, policies  # noqa: F401
from tfpipe.augment.chain import Augment
from tfpipe.augment.operation import Kind, Operation, operation, operations

__all__ = ["Augment", "Kind", "Operation", "operation", "operations"]
