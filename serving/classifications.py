"""Prints the classifications of images as a table, CSV or JSON."""

import csv
import json
import math
import sys
from collections.abc import Sequence

from tfpipe.core.errors import one_line
from tfpipe.protocol.classification import NONE_OF_THESE, UNFAMILIAR_OUTPUT
from tfpipe.protocol.client import Classification

# A table shows the probabilities of at most this many classes; JSON and CSV show all.
MAX_COLUMNS = 8

# Printers take them with the names of the classes, which are empty if the model does not tell them.
Answers = Sequence[tuple[str, Classification]]


def _rows(answers: Answers, names: Sequence[str], columns: float = float("inf")) -> list[list]:
    """Return a header and a row for each answer; no classes if there are more than `columns`."""
    classes = max((len(answer.probabilities) for _, answer in answers), default=0)
    if len(names) != classes:  # the model does not tell them
        names = [f"p{place}" for place in range(classes)]
    shown = classes if classes <= columns else 0
    scored = any(answer.unfamiliar is not None for _, answer in answers)
    more = [UNFAMILIAR_OUTPUT] if scored else []
    rows = [["file", "label", "confidence", *names[:shown], *more]]
    for path, answer in answers:
        score = math.nan if answer.unfamiliar is None else answer.unfamiliar
        values = (answer.confidence, *answer.probabilities[:shown], *([score] if scored else []))
        rows.append([path, answer.label, *(round(value, 6) for value in values)])  # of float32's 7
    return rows


def _print_table(answers: Answers, names: Sequence[str]) -> None:
    answers = [
        (path, answer._replace(label=NONE_OF_THESE) if (answer.unfamiliar or 0) > 1 else answer)
        for path, answer in answers
    ]
    rows = [
        [f"{cell:.4f}" if isinstance(cell, float) else one_line(cell) for cell in row]
        for row in (_rows(answers, names, MAX_COLUMNS) if answers else ())
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts, numbers = map(str.ljust, row[:2], widths), map(str.rjust, row[2:], widths[2:])
        print("  ".join([*texts, *numbers]).rstrip())


def _print_csv(answers: Answers, names: Sequence[str]) -> None:
    # As tfpipe.predict names them; a class may have the name of another column.
    columns = [f"probability_{name}" for name in names]
    csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(answers, columns))


def _print_json(answers: Answers, names: Sequence[str]) -> None:
    rows = [{"file": path, **answer._asdict()} for path, answer in answers]
    for row in rows:
        if row[UNFAMILIAR_OUTPUT] is None:  # the model has no such output
            del row[UNFAMILIAR_OUTPUT]
    print(json.dumps(rows, indent=2))


PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
