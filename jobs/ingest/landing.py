"""Write the demo landing: seven source systems' files of SimBench regions, with what goes wrong in life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult
    from lib.settings import Settings


def options() -> list[click.Option]:
    return [
        click.Option(
            ["--days"], type=click.IntRange(1, 365), help="Days from landing.start on.  [default: landing.days]"
        ),
        click.Option(
            ["--region", "regions"],
            multiple=True,
            help="Only this region; may be given again.  [default: landing.regions]",
        ),
    ]


def plan(settings: Settings, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions that are written anew."""
    from lib.ingest.landing.build import orders_of

    return [
        {
            "region": it.recipe.region,
            "network": it.recipe.network_id,
            "from": it.first,
            "days": it.days,
            "to": it.folder,
        }
        for it in orders_of(settings, options.get("regions") or (), options.get("days"))
    ]


def run(context: JobContext) -> JobResult:
    from dataclasses import asdict

    from lib.ingest.landing.build import build, orders_of, prepare
    from lib.job import JobResult

    orders = orders_of(context.settings, context.options.get("regions") or (), context.options.get("days"))
    with context.phase("load SimBench"):
        prepare(context.spark, orders)
    rows = []
    with context.phase("write files"):
        for written in build(context.spark, orders):
            rows.append(asdict(written))
            context.count(rows_out=written.rows, files_out=written.files)
    landing = context.settings.landing.path
    return JobResult(
        summary={"landing": landing, "truth": str(orders[0].truth.parent), "written": rows},
        tables={"demo landing": rows},
    )
