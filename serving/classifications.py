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

Answers = Sequence[tuple[str, Classification]]


def _rows(answers: Answers, columns: float = float("inf")) -> list[list]:
    """Return a header and a row for each answer; no classes if there are more than `columns`."""
    classes = max((len(answer.probabilities) for _, answer in answers), default=0)
    shown = classes if classes <= columns else 0
    scored = any(answer.unfamiliar is not None for _, answer in answers)
    more = [UNFAMILIAR_OUTPUT] if scored else []
    rows = [["file", "label", "confidence", *(f"p{place}" for place in range(shown)), *more]]
    for path, answer in answers:
        score = math.nan if answer.unfamiliar is None else answer.unfamiliar
        values = (answer.confidence, *answer.probabilities[:shown], *([score] if scored else []))
        rows.append([path, answer.label, *(round(value, 6) for value in values)])  # of float32's 7
    return rows


def _print_table(answers: Answers) -> None:
    answers = [
        (path, answer._replace(label=NONE_OF_THESE) if (answer.unfamiliar or 0) > 1 else answer)
        for path, answer in answers
    ]
    rows = [
        [f"{cell:.4f}" if isinstance(cell, float) else one_line(cell) for cell in row]
        for row in (_rows(answers, MAX_COLUMNS) if answers else ())
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts, numbers = map(str.ljust, row[:2], widths), map(str.rjust, row[2:], widths[2:])
        print("  ".join([*texts, *numbers]).rstrip())


def _print_csv(answers: Answers) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(answers))


def _print_json(answers: Answers) -> None:
    rows = [{"file": path, **answer._asdict()} for path, answer in answers]
    for row in rows:
        if row[UNFAMILIAR_OUTPUT] is None:  # the model has no such output
            del row[UNFAMILIAR_OUTPUT]
    print(json.dumps(rows, indent=2))


PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
