"""Estimate the state of every snapshot from meters and telemetry; list bad measurements and what is unobservable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobs import selection
from jobs.powerflow import _cells

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult
    from lib.settings import Settings

READS = ("network", "snapshot_tile")
JOB = "powerflow.estimate"
_WORST = ("region", "network_id", "ts", "measurement_type", "element_type", "element", "side", "source", "point_id",
          "value", "estimated", "unit", "normalised_residual")  # fmt: skip
_OPEN = ("region", "date", "network_id", "buses", "bus", "slots", "remedies")


def options() -> list[click.Option]:
    return [
        *selection.options(),
        click.Option(["--top"], type=click.IntRange(1), default=5, show_default=True, help="Rows shown of each list."),
        click.Option(["--recompute"], is_flag=True, help="Calculate every cell, also where the cache has its result."),
    ]


def plan(settings: Settings, options: dict[str, Any]) -> list[dict[str, Any]]:
    from lib.algorithm.operators.estimate import Estimate

    return _cells.planned(settings, Estimate.from_settings(settings), options)


def run(context: JobContext) -> JobResult:
    from lib.algorithm.operators.estimate import Estimate
    from lib.fusion import totals, worklist
    from lib.fusion.run import run_steps
    from lib.fusion.step import StepRun
    from lib.job import JobResult

    options, chosen = context.options, selection.chosen(context.options)
    operator = Estimate.from_settings(context.settings)
    step = StepRun(context, operator, chosen, bool(options.get("recompute")))
    run_steps(context, [step])
    regions, top = totals.by_region(step), options.get("top") or 5
    worst = worklist.largest(context.lake, "bad_measurement", "normalised_residual", _WORST, chosen.wants, top)
    left_open = worklist.largest(context.lake, "unobservable_island", "buses", _OPEN, chosen.wants, top)
    paths = [{"table": name, "path": context.lake.path(name)} for name in (*operator.outputs, "quarantine")]
    tables = {
        "state estimation": [_region_row(name, row) for name, row in regions.items()],
        "worst of the bad measurements": worst,
        "largest unobservable islands": left_open,
        "tables": paths,
    }
    return JobResult(
        summary={
            "lake": context.lake.root, "regions": regions, "bad_measurements": worst, "unobservable": left_open,
            "tables": {row["table"]: row["path"] for row in paths},
        },
        tables={title: rows for title, rows in tables.items() if rows},
    )  # fmt: skip


def _region_row(region: str, figures: dict[str, Any]) -> dict[str, Any]:
    counts = (
        "days", "computed", "snapshots", "estimated", "partly", "pseudo", "diverged", "missing", "suspect", "removed",
        "points", "points_unplaced", "rows_quarantined",
    )  # fmt: skip
    bus_snapshots, freedom = figures.get("bus_snapshots"), figures.get("degrees_of_freedom")
    return {
        "region": region,
        **{name.removeprefix("rows_"): int(figures.get(name, 0)) for name in counts},
        "observable [%]": round(100 * figures["bus_snapshots_known"] / bus_snapshots, 1) if bus_snapshots else None,
        "J / degrees of freedom": round(figures["objective"] / freedom, 3) if freedom else None,
        "min vm [pu]": round(figures["vm_min_pu"], 4) if "vm_min_pu" in figures else None,
    }
