"""Prints the classifications of images as a table, CSV or JSON."""

import csv
import json
import sys
from collections.abc import Sequence

from tfpipe.core.errors import one_line
from tfpipe.protocol.client import Classification

# A table shows the probabilities of at most this many classes; JSON and CSV show all.
MAX_COLUMNS = 8


def _rows(answers: Sequence[tuple[str, Classification]], columns: int | None) -> list[list]:
    """Return a header and a row for each answer; no classes if there are more than `columns`."""
    classes = max((len(answer.probabilities) for _, answer in answers), default=0)
    shown = classes if columns is None or classes <= columns else 0
    heading = ["file", "label", "confidence", *(f"p{place}" for place in range(shown))]
    return [heading] + [
        [path, answer.label, *_rounded([answer.confidence, *answer.probabilities[:shown]])]
        for path, answer in answers
    ]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 6) for value in values]  # float32 has seven digits


def _print_table(answers: Sequence[tuple[str, Classification]]) -> None:
    if not answers:
        return
    rows = [
        [f"{cell:.4f}" if isinstance(cell, float) else one_line(cell) for cell in row]
        for row in _rows(answers, MAX_COLUMNS)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _print_csv(answers: Sequence[tuple[str, Classification]]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(answers, None))


def _print_json(answers: Sequence[tuple[str, Classification]]) -> None:
    print(json.dumps([{"file": path, **answer._asdict()} for path, answer in answers], indent=2))


PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
