"""Build the demo lake: four SimBench networks with a year's quarter-hours and noise on every meter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult
    from lib.settings import Settings


def options() -> list[click.Option]:
    return [
        click.Option(["--days"], type=click.IntRange(1, 366), help="Days from demo.start on.  [default: demo.days]"),
        click.Option(["--region", "regions"], multiple=True, help="Only this region; may be given again."),
    ]


def plan(settings: Settings, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The days of each region; those that the lake has already are left as they are."""
    from lib.ingest.demo import regions_of

    days = options.get("days") or settings.demo.days
    return [
        {"region": it.name, "network": it.network_id, "from": settings.demo.start, "days": days, "tasks": days}
        for it in regions_of(settings, options.get("regions") or ())
    ]


def run(context: JobContext) -> JobResult:
    from lib.ingest import demo
    from lib.job import JobResult
    from lib.tables.tiles import LANES

    settings = context.settings
    days = context.options.get("days") or settings.demo.days
    regions = demo.regions_of(settings, context.options.get("regions") or ())
    rows: dict[str, dict[str, Any]] = {
        it.name: {"region": it.name, "network": it.network_id, "days_added": 0, "tiles_added": 0} for it in regions
    }
    with context.phase("load SimBench"):
        demo.prepare(context.spark, regions)
    with context.phase("build tiles"), context.progress(days * len(regions), "region-days") as bar:
        for commit in demo.build(context.spark, context.lake, regions, settings.demo.start, days, context.run_id):
            row = rows[commit.region]
            row["days_added"] += commit.days
            row["tiles_added"] += commit.tiles
            context.count(rows_out=commit.tiles, slots_out=commit.tiles * LANES * commit.n_bus)
            bar.update(commit.days)
    return JobResult(
        summary={"lake": context.lake.root, "days": days, "regions": rows}, tables={"demo lake": list(rows.values())}
    )
