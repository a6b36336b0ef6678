"""Tables of metrics for the terminal."""

from typing import Any

import numpy as np

from tfpipe.core import terminal
from tfpipe.evaluation.metrics import metrics, names
from tfpipe.evaluation.slices import attributes

# Titles of log losses before steps of the calibration, below the log loss; not every run has them.
BEFORE = {"log_loss_calibrated": "  before clipping", "log_loss_raw": "  before calibration"}

_CLASSES = 20  # rows of classes at most
_CONFUSED = 6  # classes of a whole confusion matrix at most
_PAIRS = 10  # rows of confused pairs at most


def show(what: str, measured: dict[str, Any]) -> None:
    """Print the tables of a `metrics.json`.

    Args:
        what: the evaluated images, in words.
        measured: from `summary`, with "slices" of `slices` or None.
    """
    _show_metrics(what, measured)
    _tell_reasons(measured)
    _show_classes(measured)
    _show_confusion(measured)
    if measured["slices"]:
        _show_slices(measured["slices"])
    else:
        terminal.say(f"no slices: {measured['reasons']['slices']}")


def show_against(compared: dict[str, Any], first: str, second: str) -> None:
    """Print the table of a comparison from `compare.compare`; `first` and `second` are names."""
    rows = []
    for name, found in compared["measures"].items():
        difference, p = found["difference"], found["p_value"]
        rows.append(
            [
                metrics[name].title,
                _number(found["value"]),
                _number(found["against"]),
                "-" if difference is None else f"{difference:+.4f}",
                _interval(found["interval"], "+"),
                "-" if p is None else f"{p:.3f}",
            ]
        )
    terminal.show_table(
        f"{first} (A) against {second} (B)",
        ["metric", "A", "B", "A - B", "95 % interval", "p"],
        rows,
    )


def _titles(measured: dict[str, Any]) -> dict[str, str]:
    """Return the titles of the metrics by name, in the order of the table."""
    titles = {}
    for name in names():
        titles[name] = metrics[name].title
        if name == "log_loss":
            titles |= {key: title for key, title in BEFORE.items() if key in measured}
    return titles


def _tell_reasons(measured: dict[str, Any]) -> None:
    """Print why a value, or an interval, is missing."""
    reasons = measured["reasons"]
    without: dict[str, list[str]] = {}
    for name, title in _titles(measured).items():
        if name in reasons:
            without.setdefault(f"undefined: it {reasons[name]}", []).append(title.strip())
        elif (key := f"intervals.{name}") in reasons:
            without.setdefault(f"no interval: {reasons[key]}", []).append(title.strip())
    for reason, titles in without.items():
        which = "every metric" if len(titles) == len(_titles(measured)) else ", ".join(titles)
        terminal.say(f"{which}: {reason}")


def _show_metrics(what: str, measured: dict[str, Any]) -> None:
    rows = [
        [title, _number(measured[name]), _interval(measured["intervals"][name])]
        for name, title in _titles(measured).items()
    ]
    terminal.show_table(
        f"{what}: {_images(measured['n'])}", ["metric", "value", "95 % interval"], rows
    )


def _show_classes(measured: dict[str, Any]) -> None:
    classes = measured["classes"]
    shown = classes
    if len(classes) > _CLASSES:
        f1 = measured["f1"]
        known = [name for name in classes if f1[name] is not None]
        shown = sorted(known, key=lambda name: f1[name])[:_CLASSES]
    rows = [
        [
            name,
            f"{measured['support'][name]:,}",
            *(_number(measured[key][name]) for key in ("recall", "precision", "f1")),
        ]
        for name in shown
    ]
    title = "classes"
    if len(shown) < len(classes):
        title = f"the {len(shown)} classes of {len(classes):,} with the lowest F1"
    terminal.show_table(title, ["class", "images", "found (recall)", "precision", "F1"], rows)


def _show_confusion(measured: dict[str, Any]) -> None:
    classes, counts = measured["classes"], np.array(measured["confusion"])
    if len(classes) <= _CONFUSED:
        rows = [
            [name, *(f"{count:,}" for count in row)]
            for name, row in zip(classes, counts.tolist(), strict=True)
        ]
        terminal.show_table(
            "what the images of each class are taken for", ["class", *classes], rows
        )
        return
    np.fill_diagonal(counts, 0)
    worst = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    pairs = [np.unravel_index(cell, counts.shape) for cell in worst]
    rows = [
        [classes[row], classes[column], f"{counts[row, column]:,}"]
        for row, column in pairs
        if counts[row, column]
    ]
    terminal.show_table("most frequent mistakes", ["class", "taken for", "images"], rows)


def _show_slices(slices: list[dict[str, Any]]) -> None:
    by: dict[str, list[dict]] = {}
    for each in slices:
        by.setdefault(each["by"], []).append(each)
    rows = []
    for name, parts in by.items():
        if len(parts) < 2:  # all images
            continue
        rows.append([attributes[name].title, "", "", "", "", ""])
        rows += [
            [
                f"  {_bounds(part)}",
                f"{part['n']:,}",
                _number(part["log_loss"]),
                _interval(part["log_loss_interval"]),
                _number(part["accuracy"]),
                "worse" if part["worse"] else "",
            ]
            for part in parts
        ]
    if not rows:
        return
    terminal.show_table(
        "slices", ["slice", "images", "log loss", "95 % interval", "accuracy", ""], rows
    )
    if any(part["worse"] for part in slices):
        terminal.say(
            "worse: the whole interval lies above the log loss of all images; by chance, about one"
            " slice of forty is"
        )


def _bounds(part: dict[str, Any]) -> str:
    if "value" in part:
        return part["value"]
    digits = attributes[part["by"]].digits
    return f"{part['from']:.{digits}f} to {part['to']:.{digits}f}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(bounds: tuple[float, float] | None, sign: str = "") -> str:
    if bounds is None:
        return "-"
    return " to ".join(f"{bound:{sign}.4f}" for bound in bounds)
