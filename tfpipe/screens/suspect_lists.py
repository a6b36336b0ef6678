"""The lists of suspects: `screen-NAME.csv` and the page of thumbnails `screen-NAME.html`."""

import collections
import csv
import io
import pathlib
from collections.abc import Sequence

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.page import thumbnail, thumbnail_sheet
from tfpipe.page.thumbnail_sheet import SheetItem
from tfpipe.screens.screen import DROP, Screen, ScreenedImages, Suspect

COLUMNS = ("path", "label", "score", "reason", "action")
KEPT, DROPPED = "kept", "dropped"
MAX_THUMBNAILS = 500  # some 4 MB, which a phone still shows


def run(
    prepared: Sequence[Screen], images: ScreenedImages, action: str, folder: pathlib.Path
) -> dict[str, list[Suspect]]:
    """Run screens, write the list and the page of each, and return the suspects, worst first.

    Args:
        prepared: from `prepare`.
        images: all images of the data set.
        action: "report" or "drop". The lists say it; the caller removes the images.
        folder: the folder to write to.

    Raises:
        UserError: no image of a class would be left.
    """
    listed = {screen.name: screen.find(images) for screen in prepared}
    if action == DROP:
        _check_no_class_is_lost(images, listed)
    for screen in prepared:
        suspects = listed[screen.name]
        path = folder / f"screen-{screen.name}.csv"
        save_list(path, images, suspects, action)
        page = folder / f"screen-{screen.name}.html"
        save_page(page, screen, images, suspects, action)
        fate = "left out" if action == DROP else "kept"
        terminal.say(
            f"screen {screen.name}: {len(suspects)} of {len(images.found)} images are suspect and"
            f" {fate}; {path.name} and {page.name} list them"
        )
    return listed


def save_list(
    path: pathlib.Path, images: ScreenedImages, suspects: Sequence[Suspect], action: str
) -> None:
    """Write suspects in the given order as a CSV file, each on one line."""
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        fate = DROPPED if action == DROP else KEPT
        for index, score, reason in suspects:
            label = images.classes[images.labels[index]]
            cells = (images.paths[index], label, f"{score:.4g}", reason, fate)
            writer.writerow([one_line(cell) for cell in cells])


def save_page(
    path: pathlib.Path,
    screen: Screen,
    images: ScreenedImages,
    suspects: Sequence[Suspect],
    action: str,
) -> None:
    """Write a page with thumbnails of the worst `MAX_THUMBNAILS` suspects."""
    shown = suspects[:MAX_THUMBNAILS]
    counts = f"{len(suspects):,} of {len(images.found):,} images are suspect"
    fate = (
        "The data set does not contain these images."
        if action == DROP
        else "The data set contains these images. To leave out all of them, build it with"
        " --screen_action=drop; to leave out some, list their names in a file for --exclude."
    )
    rest = f"Worst first, each with its score: {screen.score}. "
    rest += (
        f"This page shows the worst {len(shown):,}; screen-{screen.name}.csv lists all."
        if len(shown) < len(suspects)
        else f"screen-{screen.name}.csv contains the same list."
    )
    items = [_item(images, suspect) for suspect in shown]
    title = f"Screen {screen.name}: {counts}"
    text = thumbnail_sheet.render(title, [f"{screen.question} {fate}", rest], items)
    with storage.atomic_file(path) as file:
        file.write(text)


def _item(images: ScreenedImages, suspect: Suspect) -> SheetItem:
    label, path = images.classes[images.labels[suspect.index]], images.paths[suspect.index]
    small = thumbnail.of_file(images.read(suspect.index), thumbnail_sheet.SIDE)
    picture = thumbnail.embed(small, f"{path}, labelled {label}")
    return SheetItem(picture, label, path, f"{suspect.score:.4g}", suspect.reason)


def load(folder: remote.Path, name: str) -> list[dict[str, str]]:
    """Read a screen's list: a row with the `COLUMNS` for each suspect, still escaped.

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
            " `overwrite`"
        ) from None


def _check_no_class_is_lost(images: ScreenedImages, listed: dict[str, list[Suspect]]) -> None:
    dropped = {suspect.index for suspects in listed.values() for suspect in suspects}
    left = collections.Counter(images.labels)
    left.subtract(images.labels[index] for index in dropped)
    lost = [images.classes[label] for label, count in sorted(left.items()) if not count]
    if lost:
        raise UserError(
            f"`screen_action=drop` would leave no image of class {lost[0]!r}: look at the suspects"
            " with `screen_action=report`, and change the screens' options"
        )
