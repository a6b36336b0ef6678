"""Pictures to try the model with."""

import pathlib
from collections.abc import Iterator

from serving import cli
from serving.images import IMAGE_MAGIC
from serving.web.upload import Picture

# Drawn by tools/make_toy_images.py, as the demo's images are, of another seed (7). The last one
# lies on its side and says so in its EXIF data, as a phone's photos do.
DRAWN = pathlib.Path(__file__).parent / "samples"
MOST = 12

_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


class Samples:
    """Some pictures of a folder, named as their files are.

    Attributes:
        names: in order; each one's place is its key.
    """

    def __init__(self, folder: pathlib.Path, *, max_bytes: int):
        """Chooses pictures: all, or of many some that are spread evenly over their names.

        Args:
            folder: the pictures lie in it, not in folders below.
            max_bytes: larger files are left out.

        Raises:
            UserError: there is no such folder, or no picture in it.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        except OSError as error:
            raise cli.UserError(f"--samples={folder}: {error.strerror}") from None
        self._paths = list(_spread([path for path in paths if _fits(path, max_bytes)], MOST))
        if not self._paths:
            raise cli.UserError(
                f"--samples={folder} has no JPEG, PNG, GIF or BMP file of at most"
                f" {max_bytes / 2**20:.3g} MB"
            )
        self.names = [path.name for path in self._paths]

    def read(self, key: str) -> Picture | None:
        """Returns a sample by its place, "0" for the first; None if there is none such."""
        if not key.isdecimal() or len(key) > 4 or int(key) >= len(self._paths):
            return None
        path = self._paths[int(key)]
        try:
            return Picture(path.name, path.read_bytes())
        except OSError:  # removed since
            return None


def _fits(path: pathlib.Path, max_bytes: int) -> bool:
    try:
        with path.open("rb") as file:
            known = file.read(8).startswith(IMAGE_MAGIC)
        return known and path.stat().st_size <= max_bytes
    except OSError:
        return False


def _spread(paths: list[pathlib.Path], most: int) -> Iterator[pathlib.Path]:
    count = min(most, len(paths))
    return (paths[place * len(paths) // count] for place in range(count))
