"""The metrics of an evaluation, shown as text and in notebooks."""

from typing import Any

from tfpipe.api import html
from tfpipe.evaluation import result_tables as tables
from tfpipe.evaluation.result_tables import TextTable

_MOST_CLASSES = 20  # rows of a table


class EvaluatedRun:
    """What `Run.evaluate` found: metrics, intervals, and tables of them.

    `evaluated["accuracy"]` is the value of a metric, and `evaluated.interval("accuracy")` its 95 %
    interval.

    Attributes:
        metrics: the contents of `metrics.json`, as `records/README.md` describes them.
    """

    def __init__(self, title: str, metrics: dict[str, Any]):
        """`title` says what was evaluated."""
        self._title = title
        self.metrics = metrics

    def __getitem__(self, metric: str) -> float | None:
        """Return the value of a metric; None where it is undefined."""
        return self.metrics[metric]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric; None where there is none."""
        bounds = self.metrics["intervals"][metric]
        return bounds and (bounds[0], bounds[1])

    @property
    def tables(self) -> list[TextTable]:
        """The tables that `tfpipe.evaluate` prints; the first has the metrics."""
        measured = self.metrics
        found = [
            tables.of_metrics(self._title, measured),
            tables.of_classes(measured, most=_MOST_CLASSES),
            tables.of_mistakes(measured),
            tables.of_slices(measured["slices"] or []),
        ]
        return [table for table in found if table.rows]

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables has to know, a line each."""
        measured = self.metrics
        found = [*measured["warnings"], *tables.explanations(measured)]
        return found + tables.slice_notes(measured)

    def __repr__(self) -> str:
        return "\n\n".join([*map(_as_text, self.tables), *self.notes])

    def _repr_html_(self) -> str:
        return "".join(html.table(*table) for table in self.tables) + html.paragraphs(self.notes)


def _as_text(table: TextTable) -> str:
    cells = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([table.title, *lines])
