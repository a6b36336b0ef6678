"""Read the names of numbered classes from a file beside records: labels.txt and its kin.

TensorFlow Datasets has label.labels.txt with one name a line, from 0; slim has labels.txt with
lines such as "0:cat"; Object Detection has label_map.pbtxt with `item { id: 1 name: 'cat' }`.
"""

import os
import re

from tfpipe.core import storage
from tfpipe.core.errors import UserError

_MAX_BYTES = 2**24
_FILES = re.compile(
    r"(?:.*\.)?labels?\.txt|classes\.txt|class_?names\.txt|label_?map\.(?:pbtxt|txt)|.*\.pbtxt",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\s*(\d+)\s*[:,\t ]\s*(.+)")
_ITEM = re.compile(r"item\s*\{(.*?)\}", re.DOTALL)
_ID = re.compile(r"\bid\s*:\s*(\d+)")
_ITEM_NAME = re.compile(r"\b(?:display_)?name\s*:\s*(['\"])(.*?)\1")


def read(folder: str) -> tuple[str, dict[int, str]]:
    """Find the file with the names of the classes in a folder.

    Args:
        folder: path or URL.

    Returns:
        The path of the file and the name of each number; "" and no names without such a file.

    Raises:
        UserError: two such files contradict each other, or one cannot be read.
    """
    found: dict[str, dict[int, str]] = {}
    for name in sorted(filter(_FILES.fullmatch, storage.names_in(folder))):
        path = os.path.join(folder, name)
        try:
            data = storage.read_whole(path, 0, _MAX_BYTES) or b""
            found[path] = _parse(data.decode("utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}, the names of classes, cannot be read: {error}") from None
    found = {path: names for path, names in found.items() if names}
    distinct = list(found.values())
    if any(names != distinct[0] for names in distinct):
        raise UserError(
            f"{' and '.join(found)} give different names to the classes: remove or rename all but"
            " one"
        )
    return next(iter(found.items())) if found else ("", {})


def _parse(text: str) -> dict[int, str]:
    if items := _ITEM.findall(text):
        pairs = [(_ID.search(item), _ITEM_NAME.search(item)) for item in items]
        return {int(number[1]): name[2] for number, name in pairs if number and name}
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return {int(match[1]): match[2].strip() for match in numbered}
    return dict(enumerate(lines))
