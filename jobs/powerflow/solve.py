"""Solve the power flow of every snapshot where its data lies; write bus_day, branch_day, network_result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobs import selection
from jobs.powerflow import _cells

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult
    from lib.settings import Settings

READS = ("network", "snapshot_tile")
JOB = "powerflow.solve"


def options() -> list[click.Option]:
    return [
        *selection.options(),
        click.Option(["--full-voltages"], is_flag=True, help="Keep every snapshot's voltages in state_tile."),
        click.Option(["--recompute"], is_flag=True, help="Calculate every cell, also where the cache has its result."),
    ]


def plan(settings: Settings, options: dict[str, Any]) -> list[dict[str, Any]]:
    from lib.algorithm.operators.powerflow import PowerFlowOperator

    return _cells.planned(settings, PowerFlowOperator.from_settings(settings), options)


def run(context: JobContext) -> JobResult:
    from lib.algorithm.operators.powerflow import PowerFlowOperator
    from lib.fusion import totals
    from lib.fusion.run import run_steps
    from lib.fusion.step import StepRun
    from lib.job import JobResult

    options = context.options
    operator = PowerFlowOperator.from_settings(context.settings, full_voltages=bool(options.get("full_voltages")))
    step = StepRun(context, operator, selection.chosen(options), bool(options.get("recompute")))
    run_steps(context, [step])
    regions = totals.by_region(step)
    for row in regions.values():  # regions run side by side: each has its share of the wall time, by its workers'
        busy = sum(it["seconds"] for it in regions.values())
        row["wall_seconds"] = row["seconds"] / busy * _wall(context) if busy else 0.0
    paths = [{"table": name, "path": context.lake.path(name)} for name in (*operator.outputs, "quarantine")]
    return JobResult(
        summary={"lake": context.lake.root, "regions": regions, "tables": {row["table"]: row["path"] for row in paths}},
        tables={"power flow": [_region_row(name, row) for name, row in regions.items()], "tables": paths},
    )


def _wall(context: JobContext) -> float:
    return sum(context.phases.get(name, 0.0) for name in ("calculate", "commit"))


def _region_row(region: str, figures: dict[str, Any]) -> dict[str, Any]:
    counts = ("days", "computed", "snapshots", "converged", "newton", "diverged", "bad", "missing", "rows_quarantined")
    whole = figures["computed"] == figures["days"] and figures.get("bus_snapshots")
    return {
        "region": region,
        **{name.removeprefix("rows_"): int(figures.get(name, 0)) for name in counts},
        "min vm [pu]": _rounded(figures.get("vm_min_pu"), 4),
        "max loading [%]": _rounded(figures.get("loading_max_percent"), 1),
        "loss [kWh]": round(figures.get("loss_kwh", 0.0)),
        "seconds": round(figures["wall_seconds"], 2),
        "ns per bus and snapshot": round(figures["wall_seconds"] / whole * 1e9, 1) if whole else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
