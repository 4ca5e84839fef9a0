"""What a power-flow job would read, for --dry-run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs import selection

if TYPE_CHECKING:
    from lib.algorithm.operator import Operator
    from lib.settings import Settings


def planned(settings: Settings, operator: Operator, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of each region, from the tables' logs alone."""
    from lib.fusion import step
    from lib.tables import Lake

    found = step.plan(Lake(settings.lake.path), settings, operator, selection.chosen(options))
    rows = []
    for region in sorted({cell.region for cell in found.cells}):
        cells = [cell for cell in found.cells if cell.region == region]
        rows.append(
            {
                "region": region,
                "from": cells[0].date,
                "to": cells[-1].date,
                "days": len(cells),
                "files": sum(len(cell.files) for cell in cells),
                "rows": sum(cell.rows or 0 for cell in cells),
                "megabytes": round(sum(cell.size for cell in cells) / 1e6, 1),
            }
        )
    return rows
