"""Device-side augmentation: a spec string becomes one function over a batch.

    "rotate(15)|zoom(0.9,1.1)|flip_lr|maybe(0.5,blur)|brightness(0.2)|mixup(0.2)"

Every operation is a pure function of the batch and of uniform numbers that the input pipeline draws
for each sample, so a picture depends on (seed, epoch, sample) alone, or on its neighbour in the
batch too where pictures are mixed, and the whole compiles under XLA.

Whatever the order in the spec, geometry comes first: the operations of a chain are matrices that
multiply into one, and the image is sampled once. Then come colours and blur in their order, then
what lies over the picture (noise, cutout), and mixing last.

To add an operation, write a function and register it; `operation` says what it takes and returns:

    @operation("invert", num_random=1, kind=Kind.COLOR)
    def _invert(images, u, chance=0.5):
        '''`invert`: turns colours into their complements, with that probability.'''
"""

from tfpipe.augment import boxes, color, geometry, mixing, noise, policies  # noqa: F401
from tfpipe.augment.chain import Augment
from tfpipe.augment.operation import Kind, Operation, operation, operations

__all__ = ["Augment", "Kind", "Operation", "operation", "operations"]
