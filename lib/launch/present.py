"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000


def show(title: str, rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows as a table, one row each; where the terminal is too narrow for it, one column each.

    Columns are the keys of all rows, in order of appearance; numbers stand to the right.
    """
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[row.get(name) for name in names] for row in rows]
    table = _table(title, names, lines)
    width = Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).maximum
    if not console.is_terminal:
        console = Console(file=console.file, width=max(width, console.width))
    elif width > console.width and 1 < len(rows) < len(names):
        head, *rest = zip(names, *lines, strict=True)
        table = _table(title, [head[0], *(_text(value) for value in head[1:])], [list(line) for line in rest])
    console.print(table)


def _table(title: str, names: Sequence[str], lines: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for index, name in enumerate(names):
        numeric = all(isinstance(line[index], int | float | None) for line in lines)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(_text(value)) for value in line))
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.6g}"
    return str(value)
