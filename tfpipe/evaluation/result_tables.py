"""Tables of metrics as text, the same for the terminal and for a report."""

from typing import Any, NamedTuple

import numpy as np

from tfpipe.core import terminal
from tfpipe.evaluation import label_sets
from tfpipe.evaluation.metrics import names
from tfpipe.evaluation.slices import attributes
from tfpipe.records.label_set import MANY

# Titles of log losses before steps of the calibration, below the log loss; not every run has them.
BEFORE = {"log_loss_calibrated": "  before clipping", "log_loss_raw": "  before calibration"}

_CONFUSED = 6  # classes of a whole confusion matrix at most
_PAIRS = 10  # rows of confused pairs at most
_INTERVAL = "95 % interval"


class TextTable(NamedTuple):
    """A table of texts; the first column names its rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def show(self) -> None:
        """Print the table, unless it is empty."""
        if self.rows:
            terminal.show_table(*self)


def show(what: str, measured: dict[str, Any]) -> None:
    """Print the tables of a `metrics.json`.

    Args:
        what: the evaluated images, in words.
        measured: from `summary`, with "slices" of `slices` or None.
    """
    plural = "s" if measured["n"] != 1 else ""
    of_metrics(f"{what}: {measured['n']:,} image{plural}", measured).show()
    for line in explanations(measured):
        terminal.say(line)
    of_classes(measured, most=20).show()
    of_mistakes(measured).show()
    of_slices(measured["slices"] or []).show()
    for line in slice_notes(measured):
        terminal.say(line)


def of_metrics(title: str, measured: dict[str, Any]) -> TextTable:
    """Return a row for each metric."""
    rows = [
        [text, number(measured[name]), interval(measured["intervals"][name])]
        for name, text in _titles(measured).items()
    ]
    return TextTable(title, ["metric", "value", _INTERVAL], rows)


def explanations(measured: dict[str, Any]) -> list[str]:
    """Return why values or intervals are missing, and which ones are too narrow."""
    reasons, titles = measured["reasons"], _titles(measured)
    without: dict[str, list[str]] = {}
    for name, title in titles.items():
        if name in reasons:
            without.setdefault(f"undefined: it {reasons[name]}", []).append(title.strip())
        elif (key := f"intervals.{name}") in reasons:
            without.setdefault(f"no interval: {reasons[key]}", []).append(title.strip())
    found = [
        f"{'every metric' if len(which) == len(titles) else ', '.join(which)}: {reason}"
        for reason, which in without.items()
    ]
    accuracy = measured[label_sets.accuracy_of(measured["labels"])]
    if accuracy in (0, 1):
        found.append(
            f"{'every' if accuracy else 'no'} image is right, so all samples of the"
            " bootstrap are alike: intervals other than those of accuracy, recall and precision are"
            " too narrow"
        )
    return found


def of_classes(measured: dict[str, Any], most: int) -> TextTable:
    """Return a row for each class; of more than `most` classes, those with the lowest F1."""
    shown, title = measured["classes"], "classes"
    if len(shown) > most:
        known = [name for name in shown if measured["f1"][name] is not None]
        shown = sorted(known, key=measured["f1"].get)[:most]
        title = f"the {len(shown)} classes of {len(measured['classes']):,} with the lowest F1"
    rows = [
        [
            name,
            f"{measured['support'][name]:,}",
            number(measured["recall"][name]) if measured["support"][name] else "no images",
            interval(measured["recall_intervals"][name]),
            *(number(measured[key][name]) for key in ("precision", "f1")),
        ]
        for name in shown
    ]
    columns = ["class", "images", "recall", _INTERVAL, "precision", "F1"]
    if measured["labels"] == MANY:  # average precision and area below ROC, in place of an interval
        columns = ["class", "images", "recall", "precision", "F1", "AP", "AUC", "threshold"]
        keys = ("average_precision_by_class", "roc_auc_by_class", "thresholds")
        rows = [
            [*row[:3], *row[4:], *(number(measured[key][name]) for key in keys)]
            for name, row in zip(shown, rows, strict=True)
        ]
    return TextTable(title, columns, rows)


def of_mistakes(measured: dict[str, Any]) -> TextTable:
    """Return the confusion matrix, or of more than `_CONFUSED` classes the most confused pairs.

    Images that may have several classes are not taken for one another: the table is empty.
    """
    if measured["labels"] == MANY:
        return TextTable("", [], [])
    classes, counts = measured["classes"], np.array(measured["confusion"])
    if len(classes) <= _CONFUSED:
        rows = [
            [name, *(f"{count:,}" for count in row)]
            for name, row in zip(classes, counts.tolist(), strict=True)
        ]
        return TextTable("what the images of each class are taken for", ["class", *classes], rows)
    np.fill_diagonal(counts, 0)
    worst = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    rows = [
        [classes[row], classes[column], f"{counts[row, column]:,}"]
        for row, column in zip(*np.unravel_index(worst, counts.shape), strict=True)
        if counts[row, column]
    ]
    return TextTable("most frequent mistakes", ["class", "taken for", "images"], rows)


def of_slices(slices: list[dict[str, Any]], *, wide: bool = False) -> TextTable:
    """Return a row for each slice below its attribute.

    Attributes with one slice, or without any interval, are left out.

    Args:
        slices: from `slices`.
        wide: whether the accuracy has its interval too, which a terminal has no room for.
    """
    accuracy = "accuracy" if all("accuracy" in part for part in slices) else "subset_accuracy"
    title = "accuracy" if accuracy == "accuracy" else "all classes right"
    columns = ["slice", "images", "log loss", _INTERVAL, title, _INTERVAL][: 5 + wide]
    rows = []
    for name in dict.fromkeys(part["by"] for part in slices):
        parts = [part for part in slices if part["by"] == name]
        # All images, or too few for any interval.
        if len(parts) < 2 or not any(part["log_loss_interval"] for part in parts):
            continue
        rows.append([attributes[name].title, *[""] * (len(columns) - 1)])
        rows += [
            [
                f"{'*' if part['worse'] else ' '} {_bounds(part)}",
                f"{part['n']:,}",
                number(part["log_loss"]),
                interval(part["log_loss_interval"]),
                number(part[accuracy]),
                interval(part[f"{accuracy}_interval"]),
            ][: len(columns)]
            for part in parts
        ]
    return TextTable("slices", columns, rows)


def slice_notes(measured: dict[str, Any]) -> list[str]:
    """Return what a reader of the slices has to know, or why there are none."""
    if measured["slices"] is None:
        return [f"no slices: {measured['reasons']['slices']}"]
    if not measured["slices"]:
        return []
    if not any(part["log_loss_interval"] for part in measured["slices"]):
        return ["no slices: each has too few images for an interval; metrics.json has them"]
    if not any(part["worse"] for part in measured["slices"]):
        return []
    return [
        "*: worse; the whole interval of its log loss lies above the log loss of all images; by"
        " chance, about one slice of forty does"
    ]


def show_against(compared: dict[str, Any], first: str, second: str, labels: str) -> None:
    """Print the table of a comparison from `compare.compare`; `first` and `second` are names.

    `labels` is whether an image has "one" class or "many".
    """
    metrics = label_sets.registry(labels)
    rows = [
        [
            metrics[name].title,
            number(found["value"]),
            number(found["against"]),
            number(found["difference"], "+.4f"),
            interval(found["interval"], "+.4f"),
            number(found["p_value"], ".3f"),
        ]
        for name, found in compared["measures"].items()
    ]
    columns = ["metric", "A", "B", "A - B", _INTERVAL, "p"]
    TextTable(f"{first} (A) against {second} (B)", columns, rows).show()


def number(value: float | None, form: str = ".4f") -> str:
    """Return a number as text, "-" for None."""
    return "-" if value is None else f"{value:{form}}"


def interval(bounds: tuple[float, float] | None, form: str = ".4f") -> str:
    """Return an interval as text, "-" for None."""
    return "-" if bounds is None else " to ".join(f"{bound:{form}}" for bound in bounds)


def _titles(measured: dict[str, Any]) -> dict[str, str]:
    """Return the titles of the measured metrics by name, in the order of the table.

    A step of the calibration that changes nothing has no row.
    """
    titles = {}
    metrics = label_sets.registry(measured["labels"])
    for name in filter(measured.__contains__, names(registry=metrics)):
        titles[name] = metrics[name].title
        if name == "log_loss":
            after = measured[name]
            for step in filter(measured.__contains__, BEFORE):
                if measured[step] != after:
                    titles[step] = BEFORE[step]
                after = measured[step]
    return titles


def _bounds(part: dict[str, Any]) -> str:
    if "value" in part:
        return part["value"]
    digits = attributes[part["by"]].digits
    return f"{part['from']:.{digits}f} to {part['to']:.{digits}f}"
