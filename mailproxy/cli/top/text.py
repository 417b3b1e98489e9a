"""One snapshot as plain text, for outputs without cursor control. It has no escape sequences."""

from __future__ import annotations

from mailproxy.cli.top.picture import Picture
from mailproxy.cli.top.tables import LEFT_COLUMNS, VIEWS, Choice, Table, summary, table


def snapshot(picture: Picture) -> str:
    """Return all views, one below the other."""
    parts = [summary(picture), *(_text(table(view, picture, Choice())) for view in VIEWS)]
    return "\n\n".join(parts) + "\n"


def _text(view: Table) -> str:
    if view.note:
        return view.note
    lines = [view.columns, *(cells for _, cells in view.rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(view.columns))]
    text = "\n".join(
        "  ".join(
            cell.ljust(width) if column in LEFT_COLUMNS else cell.rjust(width)
            for cell, width, column in zip(line, widths, view.columns, strict=True)
        ).rstrip()
        for line in lines
    )
    return f"{text}\n({view.hidden} more)" if view.hidden else text
