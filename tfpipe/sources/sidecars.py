"""Read labels from files beside the images of an archive, as WebDataset has them.

    0000000.jpg    0000000.cls     the number or name of the class
                   0000000.json    an object with the key `label`, `class_name` or the like
                   0000000.txt     the name of the class, unless the texts are captions

https://github.com/webdataset/webdataset#the-webdataset-format
"""

import json
from collections.abc import Callable, Mapping

from tfpipe.core.errors import Rejected
from tfpipe.sources.member import is_image_name

_ENDINGS = (".cls", ".json", ".txt")
_KEYS = ("label_name", "class_name", "label", "class", "cls", "category", "target")

# Texts that differ for more than half of the images are captions.
_MAX_DISTINCT = 0.5


def read(names: Mapping[str, object], contents: Callable[[str], bytes]) -> tuple[dict, set[str]]:
    """Find the labels of images in files of the same name with another ending.

    Args:
        names: of all files, as keys.
        contents: returns what a file holds; may raise Rejected.

    Returns:
        The label of each image by its name, and the names of the files that hold them; both empty
        unless every image has such a file.
    """
    for ending in _ENDINGS:
        images = [name for name in names if is_image_name(name)]
        if not images or not all(_stem(name) + ending in names for name in images):
            continue
        try:
            labels = {name: _label(contents(_stem(name) + ending), ending) for name in images}
        except (Rejected, ValueError):  # files of another kind
            continue
        distinct = len(set(labels.values()))
        if all(labels.values()) and (ending != ".txt" or distinct <= _MAX_DISTINCT * len(labels)):
            beside = (_stem(name) + each for name in images for each in _ENDINGS)
            return labels, {name for name in beside if name in names}
    return {}, set()


def _stem(name: str) -> str:
    """Return a name up to the first dot behind its folder: the key of a sample of WebDataset."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _label(data: bytes, ending: str) -> str:
    """Return the label in a file; "" if it has none.

    Raises:
        ValueError: the file is of another form.
    """
    text = data.decode("utf-8-sig").strip()
    if ending != ".json":
        return text if len(text.splitlines()) == 1 else ""
    value = json.loads(text)
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if key in value), None)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
