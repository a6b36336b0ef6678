"""What rounds of measurements say: medians, ratios, targets, and the tables that show them."""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

# The figures of a case, by name, the most important one first. Lists are kept, but not summarized.
# A failed case has only `failed`, with the reason.
Figures = dict[str, float]
Round = dict[str, Figures]  # by case
_PLAIN_WIDTH = 160  # columns of a table that goes to a file


class Ratio(NamedTuple):
    """A value computed from the figures of one round, by case, and its target if it has one."""

    name: str
    value: Callable[[Round], float]
    least: float | None = None
    most: float | None = None


def ratio(figure: str, case: str, to: str, least: float | None = None) -> Ratio:
    """Compare a figure of two cases: `case / to`."""
    return Ratio(f"{case} / {to}", lambda one: one[case][figure] / one[to][figure], least)


def summarize(
    rounds: Sequence[Round],
    beside: Sequence[str],
    comparisons: Sequence[Ratio],
    trees: Sequence[str] = ("",),
) -> dict:
    """Return what the rounds say.

    `cases` has by case and figure the `median`, `min` and `max`, and `ratios` to the same figure of
    the cases `beside` and of the other checkout; or why the case `failed`. `comparisons` is a list
    of `name`, `median`, `min`, `max` (None if not measured), `least`, `most` and `reached`.
    """
    cases: dict[str, dict] = {}
    for name in rounds[0]:
        failed = next((each[name]["failed"] for each in rounds if "failed" in each[name]), None)
        if failed:
            cases[name] = {"failed": failed}
            continue
        others = [*beside, *(f"{name} @{tree}" for tree in trees if tree)]
        cases[name] = {
            figure: _spread([each[name][figure] for each in rounds if figure in each[name]])
            | {"ratios": {to: _ratio(rounds, name, to, figure) for to in others}}
            for figure, value in {k: v for each in rounds for k, v in each[name].items()}.items()
            if isinstance(value, int | float)
        }
    found = []
    for tree in trees:
        for each in comparisons:
            values = [_value(each, _seen_from(one, tree)) for one in rounds]
            known = [value for value in values if value is not None]
            row = {"name": f"{each.name} @{tree}" if tree else each.name}
            row |= _spread(known) | {"least": each.least, "most": each.most, "reached": None}
            if known and (each.least is not None or each.most is not None):
                least, most = (each.least or 0, float("inf") if each.most is None else each.most)
                row["reached"] = least <= row["median"] <= most
            found.append(row)
    return {"cases": cases, "comparisons": found}


def _seen_from(one: Round, tree: str) -> Round:
    """Return the round with the cases of the other checkout in place of this one's."""
    suffix = f" @{tree}"
    if not tree:
        return one
    theirs = {n.removesuffix(suffix): figures for n, figures in one.items() if n.endswith(suffix)}
    return one | theirs


def _value(comparison: Ratio, one: Round) -> float | None:
    try:
        return comparison.value(one)
    except (KeyError, ZeroDivisionError):  # a case was not run or failed
        return None


def _ratio(rounds: Sequence[Round], name: str, to: str, figure: str) -> float | None:
    return _spread(
        [
            each[name][figure] / other[figure]
            for each in rounds
            if figure in each[name] and (other := each.get(to, {})).get(figure)
        ]
    )["median"]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    functions = {"median": statistics.median, "min": min, "max": max}
    return {name: function(values) if values else None for name, function in functions.items()}


def show(report: Mapping) -> None:
    """Print the tables of a report from `summarize`, and what failed."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    cases = {name: case for name, case in report["cases"].items() if "failed" not in case}
    figures = [figure for case in cases.values() for figure in case.values()]
    others = {to for figure in figures for to, ratio in figure["ratios"].items() if ratio}
    fixed = [to for to in sorted(others) if "@" not in to]
    columns = ["case", "", "median", "min", "max", *(f"/ {to}" for to in fixed)]
    columns += ["/ other checkout"] * any("@" in to for to in others)
    table = _table("Figures", columns)
    for name, case in cases.items():
        for number, (figure, found) in enumerate(case.items()):
            ratios = found["ratios"]
            cells = [_text(found[key]) for key in ("median", "min", "max")]
            cells += [_text(ratios.get(to)) for to in fixed]
            cells += [_text(next((r for to, r in ratios.items() if "@" in to), None))]
            table.add_row("" if number else name, figure, *cells[: len(columns) - 2])
    console.print(table)
    for name in report["cases"].keys() - cases.keys():
        console.print(f"{name}: {report['cases'][name]['failed']}", markup=False)
    if rows := [row for row in report["comparisons"] if row["median"] is not None]:
        table = _table("Comparisons", ["", "median", "min", "max", "target", "reached"])
        for row in rows:
            target = "" if row["least"] is None else f">= {row['least']:g}"
            target += "" if row["most"] is None else f"<= {row['most']:g}"
            reached = {True: "yes", False: "no", None: ""}[row["reached"]]
            cells = [_text(row[key]) for key in ("median", "min", "max")]
            table.add_row(row["name"], *cells, target, reached)
        console.print(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 1 or not column else "right")
    return table


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
