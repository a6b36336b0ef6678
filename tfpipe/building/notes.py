"""Say how the labels and splits of a build were read."""

from tfpipe.building import splits
from tfpipe.building.catalog import Catalog
from tfpipe.building.splits import SplitPlan
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.records.manifest import Manifest
from tfpipe.sources import class_order, folder_path, split_name


def tell(files: Catalog, plan: SplitPlan, classes: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Print a line for each thing that a person should know before the images are read.

    Args:
        files: the files.
        plan: the splits.
        classes: in the order of their numbers.
        named: the classes that the option `classes` names.
    """
    lines = [
        *files.understood,
        splits.describe(plan, files.split_counts, files.splits_from),
        _other_split(files, plan),
        *class_order.remarks(classes, files.class_counts),
    ]
    for line in filter(None, lines):
        terminal.say(line)
    alike = "" if named else class_order.alike(files.class_counts)
    if alike:
        terminal.warn(alike)


def check_classes(there: Manifest, classes: tuple[str, ...]) -> None:
    """Raise UserError if a data set of the same images and options has other classes.

    An older version may have read them so: from the innermost folder, or sorted numbers as text.
    """
    if there.classes == classes:
        return
    shown = (", ".join(map(repr, names[:10])) for names in (there.classes, classes))
    raise UserError(
        f"`out={there.folder}` holds a data set of these images, but another version read its"
        f" classes as {next(shown)}, and this one as {next(shown)}: replace it with `overwrite`, or"
        " name another folder"
    )


def _other_split(files: Catalog, plan: SplitPlan) -> str:
    """Return a note if the only source has the name of a split, which does not count."""
    name = folder_path.source_name(files.sources[0].path)
    split = split_name.recognize(name)
    default = plan.text in (splits.DEFAULT, splits.DEFAULT_LARGE)
    if len(files.sources) > 1 or split in ("", split_name.TRAIN) or not default:
        return ""
    return (
        f"splits: {plan.text}, although the source is called {name}: --splits={split}:1 makes all"
        f" of it the split {split}"
    )
