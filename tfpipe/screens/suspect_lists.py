"""The lists of suspects, `screen-NAME.csv` and `screen-NAME.html`, and what becomes of them."""

import collections
import csv
import io
import pathlib
from collections.abc import Sequence

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.screens import sheet
from tfpipe.screens.screen import DROP, Images, Screen, Suspect

COLUMNS = ("path", "label", "score", "reason", "action")
KEPT, DROPPED = "kept", "dropped"


def run(
    prepared: Sequence[Screen], images: Images, action: str, folder: pathlib.Path
) -> dict[str, list[Suspect]]:
    """Runs screens and writes the suspects of each to `screen-NAME.csv` and `screen-NAME.html`.

    Args:
        prepared: from `prepare`.
        images: all images of the data set.
        action: "report" or "drop"; the lists say what becomes of the images, but it is the caller
            who leaves them out.
        folder: where to write.

    Returns:
        The suspects of each screen, worst first.

    Raises:
        UserError: nothing would be left of a class.
    """
    listed = {screen.name: screen.find(images) for screen in prepared}
    if action == DROP:
        _check_no_class_is_lost(images, listed)
    for screen in prepared:
        path = folder / f"screen-{screen.name}.csv"
        save(path, images, listed[screen.name], action)
        page = folder / f"screen-{screen.name}.html"
        sheet.save(page, screen, images, listed[screen.name], action)
        fate = "left out" if action == DROP else "kept"
        terminal.say(
            f"screen {screen.name}: {len(listed[screen.name])} of {len(images.found)} images are"
            f" suspect and {fate}; {path.name} and {page.name} list them"
        )
    return listed


def save(path: pathlib.Path, images: Images, suspects: Sequence[Suspect], action: str) -> None:
    """Writes suspects in the order given, escaped so that each is one line."""
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        fate = DROPPED if action == DROP else KEPT
        for index, score, reason in suspects:
            label = images.classes[images.labels[index]]
            cells = (images.paths[index], label, f"{score:.4g}", reason, fate)
            writer.writerow([one_line(cell) for cell in cells])


def load(folder: remote.Path, name: str) -> list[dict[str, str]]:
    """Reads a screen's list, a row with the `COLUMNS` for each suspect; escapes stay.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / f"screen-{name}.csv"
    try:
        with io.TextIOWrapper(storage.open_to_read(path), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if any(set(row) != set(COLUMNS) for row in rows):
            raise ValueError(f"the columns are not {', '.join(COLUMNS)}")
        return rows
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is missing or damaged ({one_line(error)}): build the data set again with"
            " --overwrite"
        ) from None


def _check_no_class_is_lost(images: Images, listed: dict[str, list[Suspect]]) -> None:
    dropped = {suspect.index for suspects in listed.values() for suspect in suspects}
    left = collections.Counter(images.labels)
    left.subtract(images.labels[index] for index in dropped)
    lost = [images.classes[label] for label, count in sorted(left.items()) if not count]
    if lost:
        raise UserError(
            f"--screen_action=drop would leave no image of class {lost[0]!r}: look at the suspects"
            " with --screen_action=report, and change the screens' options"
        )
