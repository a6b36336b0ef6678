"""Tables as HTML, for notebooks."""

import html
from collections.abc import Sequence


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an HTML table; all text is escaped, and columns after the first are right-aligned."""

    def row(cells: Sequence[object], tag: str) -> str:
        shown = (
            f'<{tag} style="text-align: {"right" if number else "left"}">'
            f"{html.escape(str(cell))}</{tag}>"
            for number, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    caption = f'<caption style="text-align: left"><b>{html.escape(title)}</b></caption>'
    return f"<table>{caption}<thead>{row(columns, 'th')}</thead><tbody>{body}</tbody></table>"


def paragraphs(lines: Sequence[str]) -> str:
    """Return lines of text as paragraphs."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)
