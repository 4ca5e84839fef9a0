"""Solve the power flow of every snapshot where its data lies; write bus_day, branch_day, network_result."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult
    from lib.settings import Settings

READS = ("network", "snapshot_tile")
JOB = "powerflow.solve"


def options() -> list[click.Option]:
    return [
        *selection.options(),
        click.Option(["--full-voltages"], is_flag=True, help="Keep every snapshot's voltages in state_tile."),
    ]


def plan(settings: Settings, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of each region, from the tables' logs alone."""
    from lib.algorithm.operators.powerflow import PowerFlowOperator
    from lib.calculation import sink
    from lib.tables import Lake

    found = sink.plan(Lake(settings.lake.path), settings, _selection(options), PowerFlowOperator)
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


def run(context: JobContext) -> JobResult:
    from lib.algorithm.operators.powerflow import PowerFlowOperator
    from lib.calculation import sink
    from lib.job import JobResult

    full = bool(context.options.get("full_voltages"))
    operator = PowerFlowOperator.from_settings(context.settings, full_voltages=full)
    rows = sink.run(context, JOB, operator, _selection(context.options))
    table = [_region_row(region, figures) for region, figures in rows.items()]
    paths = [{"table": name, "path": context.lake.path(name)} for name in (*operator.outputs, "quarantine")]
    return JobResult(
        summary={"lake": context.lake.root, "regions": rows, "tables": {row["table"]: row["path"] for row in paths}},
        tables={"power flow": table, "tables": paths},
    )


def _selection(options: dict[str, Any]) -> Any:
    from lib.calculation.sink import Selection

    days = [_day(options.get(name)) for name in ("first", "last")]
    return Selection(tuple(options.get("regions") or ()), *days)


def _day(value: datetime | date | str | None) -> date | None:
    if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    return value.date() if isinstance(value, datetime) else date.fromisoformat(value[:10])


def _region_row(region: str, figures: dict[str, float]) -> dict[str, Any]:
    solved, seconds = figures.get("bus_snapshots", 0), figures["seconds"]
    counts = ("days", "snapshots", "converged", "newton", "diverged", "bad", "missing", "rows_quarantined")
    return {
        "region": region,
        **{name.removeprefix("rows_"): int(figures.get(name, 0)) for name in counts},
        "min vm [pu]": _rounded(figures.get("vm_min_pu"), 4),
        "max loading [%]": _rounded(figures.get("loading_max_percent"), 1),
        "loss [kWh]": round(figures.get("loss_kwh", 0.0)),
        "seconds": round(seconds, 2),
        "ns per bus and snapshot": _rounded(seconds / solved * 1e9 if solved else None, 1),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or abs(value) == float("inf") else round(value, digits)
