"""Sample pictures to try the model."""

import pathlib

from tfpipe.core.errors import UserError
from tfpipe.protocol.images import IMAGE_MAGIC, ImageFile

# Drawn by tools/make_toy_images.py with seed 7. The last one is rotated, with an EXIF orientation,
# like photos of phones.
DRAWN = pathlib.Path(__file__).parent / "samples"
MOST = 12

_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


class SamplePictures:
    """Some pictures of a folder.

    Attributes:
        names: the file names; the position of each is its key.
    """

    def __init__(self, folder: pathlib.Path, *, max_bytes: int):
        """Choose up to `MOST` pictures, evenly spread over the sorted names.

        Args:
            folder: the folder, without its subfolders.
            max_bytes: larger files are skipped.

        Raises:
            UserError: there is no such folder, or no picture in it.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        except OSError as error:
            raise UserError(f"--samples={folder}: {error.strerror}") from None
        fitting = [path for path in paths if _fits(path, max_bytes)]
        count = min(MOST, len(fitting))
        self._paths = [fitting[place * len(fitting) // count] for place in range(count)]
        if not self._paths:
            raise UserError(
                f"--samples={folder} has no JPEG, PNG, GIF or BMP file of at most"
                f" {max_bytes / 2**20:.3g} MB"
            )
        self.names = [path.name for path in self._paths]

    def read(self, key: str) -> ImageFile | None:
        """Return a sample by its position, "0" for the first; None if it does not exist."""
        if not key.isdecimal() or len(key) > 4 or int(key) >= len(self._paths):
            return None
        path = self._paths[int(key)]
        try:
            return ImageFile(path.name, path.read_bytes())
        except OSError:  # removed since
            return None


def _fits(path: pathlib.Path, max_bytes: int) -> bool:
    try:
        with path.open("rb") as file:
            known = file.read(8).startswith(IMAGE_MAGIC)
        return known and path.stat().st_size <= max_bytes
    except OSError:
        return False
