"""Writes the files of a prediction; each appears complete.

OUT                 the predictions
OUT.rejects.csv     the unreadable files, if there are any
OUT.summary.json    the counts, and what classified
"""

import contextlib
import shutil
import tempfile
from collections.abc import Sequence

from tfpipe.core import remote, storage
from tfpipe.core.errors import ResumableError
from tfpipe.predictions.formats import Format
from tfpipe.predictions.table import Table
from tfpipe.records import rejects as reject_lists

_RESULT = "result"  # a folder in the work folder


def rejects_path(out: remote.Path) -> remote.Path:
    """Return the path of the list of unreadable files."""
    return out.parent / f"{out.name}.rejects.csv"


def summary_path(out: remote.Path) -> remote.Path:
    """Return the path of the summary."""
    return out.parent / f"{out.name}.summary.json"


def write(
    work: remote.Path,
    out: remote.Path,
    form: Format,
    table: Table,
    rejects: Sequence[tuple[str, str, str]],
    summary: dict[str, object],
) -> None:
    """Write the files, the predictions last, and removes the work folder.

    Args:
        work: the work folder, on the same file system as `out`.
        out: the file of the predictions.
        form: its format.
        table: the predictions.
        rejects: (name, reason, detail) of the unreadable files.
        summary: the content of the summary.

    Raises:
        UserError: something cannot be written.
    """
    folder = work / _RESULT
    made = [summary_path(out), *([rejects_path(out)] if rejects else []), out]
    storage.write_json(folder / summary_path(out).name, summary)
    if rejects:
        reject_lists.save(folder / rejects_path(out).name, rejects)
    with storage.whole_file(folder / out.name) as file:
        if remote.is_remote(out):  # a remote file cannot seek
            with tempfile.TemporaryFile() as here:
                form.write(table, here)
                here.seek(0)
                shutil.copyfileobj(here, file)
        else:
            form.write(table, file)
    try:
        if not remote.is_remote(out):
            storage.sync_file(folder / out.name)
        if not rejects:
            with contextlib.suppress(FileNotFoundError):
                storage.remove(rejects_path(out))
        for path in made:
            storage.rename(folder / path.name, path)
        if not remote.is_remote(out):
            storage.sync_folder(out.parent)
    except OSError as error:
        raise ResumableError(f"cannot write {out}: {error.strerror or error}") from None
    storage.remove_tree(work)
