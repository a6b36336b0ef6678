"""The ImageNet classes that each class of a data set may look like."""

import re
from collections.abc import Iterable

from tfpipe.core.errors import UserError

CLASSES = 1000  # of ILSVRC 2012

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_HOW = "give ImageNet classes for each class, as in cat:281-285,dog:151-268 or boat:472+554+814"


def parse(text: str, classes: Iterable[str]) -> dict[str, set[int]]:
    """Parse "cat:281-285,dog:151-268" into ImageNet classes for each class of the data set.

    Raises:
        UserError: the text has another form, or names a class that is not in `classes`.
    """
    option = f"`screen_classes={text}`"
    if not text.strip():
        raise UserError(f"the screen imagenet needs `screen_classes`; {_HOW}")
    expected: dict[str, set[int]] = {}
    for part in text.split(","):
        name, _, ranges = (piece.strip() for piece in part.rpartition(":"))
        if name not in classes:
            raise UserError(
                f"{option}: {name!r} is not a class of the images ({', '.join(classes)}); {_HOW}"
            )
        if name in expected:
            raise UserError(f"{option}: {name!r} appears twice; {_HOW}")
        expected[name] = set()
        for piece in ranges.split("+"):
            match = _RANGE.fullmatch(piece.strip())
            first, last = (int(n) for n in (match[1], match[2] or match[1])) if match else (1, 0)
            if not first <= last < CLASSES:
                raise UserError(
                    f"{option}: {piece.strip()!r} is not a class or a range in 0..{CLASSES - 1};"
                    f" {_HOW}"
                )
            expected[name].update(range(first, last + 1))
    return expected
