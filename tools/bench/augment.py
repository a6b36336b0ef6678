"""Measures the augmentation alone, on one batch in memory, beside its peers.

    python -m tools.bench.augment [--json=FILE]

    xla, graph          seed recipe R3's augmentation by tfpipe, compiled and in a plain graph
    augment-projective  the operation behind `tfa.image.transform`, with the same matrix
    augment-keras       Keras' RandomFlip, RandomRotation, RandomZoom

The figure is images/s. Each case is a process of its own.
"""

import functools
import sys

from tools.bench import harness, peers
from tools.bench.harness import Case


def main() -> int:
    """Print the tables; return the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--size", type=int, default=299, help="side of the images in pixels")
    parser.add_argument("--batch_size", type=int, default=32, help="images in a batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    flags = parser.parse_args()
    given = {name: getattr(flags, name) for name in ("size", "batch_size", "seconds")}
    call = functools.partial(harness.call, **given)
    cases = [
        Case(name, functools.partial(call, function="ours.augment", compiled=name == "xla"))
        for name in ("xla", "graph")
    ]
    others = [
        Case(
            peer.__name__.replace("_", "-"),
            functools.partial(call, function=f"peers.{peer.__name__}"),
            ours=False,
        )
        for peer in peers.AUGMENT
    ]
    with harness.session(flags) as session:
        return harness.run(session, [*cases, *others], [case.name for case in others])


if __name__ == "__main__":
    sys.exit(main())
