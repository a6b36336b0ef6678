"""The numbered versions of a model on disk.

A base path holds one folder for each version. Its name is a decimal number; other names are
skipped:

    export/demo/1/saved_model.pb
    export/demo/2/saved_model.pb
    export/demo/.partial-3/         skipped
"""

import pathlib

LARGEST_VERSION = 2**63 - 1  # int64, as in ModelSpec


def version_folders(base_path: pathlib.Path) -> dict[int, pathlib.Path]:
    """Return the version folders by number; empty if `base_path` is missing.

    Raises:
        OSError: the folder cannot be read at the moment.
    """
    try:
        entries = sorted(base_path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {
        int(entry.name): entry
        for entry in entries
        if entry.name.isascii()
        and entry.name.isdecimal()
        and len(entry.name) <= len(str(LARGEST_VERSION))
        and int(entry.name) <= LARGEST_VERSION
        and entry.is_dir()
    }
