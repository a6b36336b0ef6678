"""The options of a build."""

import dataclasses
from typing import Any

from tfpipe import screens, sources
from tfpipe.building import balance, splits
from tfpipe.building.catalog import Catalog
from tfpipe.building.selection import DUPLICATE_MODES
from tfpipe.building.splits import SplitPlan
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.images import pixels
from tfpipe.images import store as stores
from tfpipe.sources import Columns, class_order, labels


@dataclasses.dataclass(frozen=True)
class _Options:
    """The flags of a build, but for those of the screens."""

    source: tuple[str, ...] = option(
        "a folder, zip or tar archive of images, a list of images and labels (.csv, .tsv, .txt,"
        " .json or .jsonl), or a folder of TFRecords; or a URL, as gs://bucket/folder; several add"
        " up",
        group="Sources",
    )
    out: str = option("the folder to write; its parents are made")
    splits: str = option(
        "auto keeps the splits that folders (train/cat/0.jpg) or lists give, and takes a missing"
        f" val from train; without given ones {splits.DEFAULT}, and from {splits.LARGE:,} images on"
        f" {splits.DEFAULT_LARGE} unless there are folds; or names and fractions of the images,"
        " which sum to 1 and replace given splits",
        splits.AUTO,
        group="Splits",
        common=True,
    )
    seed: int = option("chooses the partition into splits and the order of the records", 0)
    labels: str = option(
        "where the label is: folder (cat/0.jpg, train/cat/day1/0.jpg), filename (cat.0.jpg), auto"
        " (the folder if there are class folders, else the file name; an error if both are"
        " possible), folder:N (the Nth folder of the path; folder:0 is the source's own name,"
        " folder:-1 the innermost), or csv:FILE, a list in any form; a list given as --source has"
        " its own labels",
        "auto",
        group="Labels and lists",
        common=True,
    )
    classes: str = option(
        "the classes in the order of their numbers, as in dog,cat, also such as have no image here;"
        " by default they are sorted, numbers by value",
        "",
    )
    label_column: str = option(
        "the column of the lists with the labels; empty to find it by its name", ""
    )
    split_column: str = option(
        "the column of the lists with the splits (train, val, test); empty to find it by its name",
        "",
    )
    group_column: str = option(
        "the column of the lists whose equal values stay in one split, such as patient; empty for"
        " none",
        "group",
    )
    exclude: str = option(
        "a text file with the names of images to leave out, one a line, or of folders, as in docs/;"
        " empty for none",
        "",
        group="Selection",
        common=True,
    )
    duplicates: str = option(
        "how to treat duplicates, also re-encoded or resized ones: group (all in one split), drop"
        " (all but the first), keep (each by itself)",
        "group",
        choices=DUPLICATE_MODES,
        common=True,
    )
    folds: int = option(
        "folds for cross-validation; each record has its number; 0 for none", 0, common=True
    )
    rebalance: str = option(
        "how to make the classes of the training split equal: none, drop (images of larger ones),"
        " copies (add randomly transformed copies of the smaller ones' images)",
        "none",
        choices=balance.MODES,
    )
    store: str = option(
        "what a record holds: original (the file itself), resized:320 (a JPEG whose shorter side is"
        " 320 pixels at most), resized:299x299 (width and height), or raw:256 (bare pixels)",
        "original",
        group="Stored images",
        common=True,
    )
    jpeg_quality: int = option("of JPEGs that are written anew, 1 to 100", stores.JPEG_QUALITY)
    depth16: str = option(
        "how 16-bit images become 8-bit ones: auto (by the bits that each image uses, such as 12),"
        " full (by all 16), minmax (each image's darkest and brightest to 0 and 255)",
        pixels.AUTO,
        choices=pixels.DEPTHS,
    )
    shards: int = option(
        "shards for each split; 0 lets --shard_size_mb decide", 0, group="Shards and work"
    )
    shard_size_mb: int = option("target size of a shard, in 10^6 bytes", 128)
    workers: int = option(
        "processes that decode images; 0 for one on each CPU core", 0, common=True
    )
    runner: str = option(
        "what runs the work: local (processes here, with bounded memory and time for each image),"
        " or beam (Apache Beam, also on many machines, without these bounds)",
        "local",
        choices=("local", "beam"),
    )
    beam_args: str = option(
        "flags of Beam in one string, as in --beam_args='--runner=FlinkRunner --parallelism=64';"
        " empty for --workers threads here",
        "",
    )
    max_rejects: int = option("rejected images that are no failure", 0, group="Result")
    report: bool = option("write report.html, a page about the images, with plots", True)
    overwrite: bool = option("replace the data set that is in --out", False, common=True)
    quiet: bool = option("print nothing but warnings and errors", False)
    multi_label: bool | None = option(
        "whether an image may have several classes, or none: circle|red in a list is then two, an"
        " empty label none of the classes, and the rows of one image add up; by default the labels"
        " of lists decide, and it is an error if both are possible",
        None,
        group="Labels and lists",
    )
    label_separator: str = option("what joins the classes of an image in the labels of lists", "|")


@dataclasses.dataclass(frozen=True)
class Options(screens.Options, sources.Options, _Options):
    """The flags of a build."""

    @property
    def columns(self) -> Columns:
        """The columns of the lists that a person names."""
        named = self.path_column, self.label_column, self.split_column, self.group_column
        return Columns(*named, self.multi_label, self.label_separator)


# Options that decide where and how the work is done, but not its result.
_NO_ARGUMENTS = {
    *("out", "workers", "runner", "beam_args", "screen_cache"),
    *("max_rejects", "overwrite", "quiet"),
}

# Options of no effect without `screens`.
_SCREEN_OPTIONS = {field.name for field in dataclasses.fields(screens.Options)} - {"screens"}

_MINIMUMS = {"shards": 0, "shard_size_mb": 1, "workers": 0, "max_rejects": 0}


def arguments(options: Options, plan: SplitPlan) -> dict[str, Any]:
    """Return the options that a manifest names.

    Args:
        options: all options.
        plan: the splits; "auto" counts as the fractions that it stands for.
    """
    found = dataclasses.asdict(options) | {"splits": plan.text}
    return {
        name: list(value) if isinstance(value, tuple) else "" if value is None else value
        for name, value in found.items()
        if name not in _NO_ARGUMENTS
    }


def deciding(options: Options, plan: SplitPlan) -> dict[str, Any]:
    """Return the options that decide the contents; a data set is current if they are equal."""
    idle = () if options.screens else _SCREEN_OPTIONS
    return {name: value for name, value in arguments(options, plan).items() if name not in idle}


def defaults() -> dict[str, Any]:
    """Return the values of options that were not given."""
    return arguments(Options(source=(), out=""), splits.plan(splits.AUTO, {}))


def check(options: Options) -> None:
    """Raise UserError if an option has a wrong value, before anything is read."""
    for name, least in _MINIMUMS.items():
        value = getattr(options, name)
        if value < least:
            raise UserError(f"`{name}={value}` is too small: give at least {least}", status=2)
    splits.check(options.splits)
    splits.check_folds(options.folds)
    labels.check(options.labels)
    class_order.parse(options.classes)
    stores.parse(options.store, options.jpeg_quality)
    if not options.label_separator:
        raise UserError("`label_separator=` is empty: give one, such as |", status=2)
    if options.runner == "local" and options.beam_args:
        raise UserError("`beam_args` needs `runner=beam`: give both, or none", status=2)


def has_sets(options: Options, files: Catalog) -> bool:
    """Return whether images of a build may have several classes, or none.

    Raises:
        UserError: another option is not for such images, or forbids them.
    """
    if options.multi_label is False and files.has_sets:
        raise UserError(
            "`multi_label=false`: labels of the source name several classes of an image, or none:"
            " omit it"
        )
    many = bool(options.multi_label) or files.has_sets
    for name in ("rebalance", "screens"):
        value = getattr(options, name)
        if many and value not in ("", "none"):
            raise UserError(
                f"`{name}={value}` is for images of exactly one class, and these may have several:"
                " omit it"
            )
    return many
