"""Load the source systems' files: landing to bronze to silver."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult


def options() -> list[click.Parameter]:
    source = click.Option(["--source", "sources"], multiple=True, help="Only this source; may be given again.")
    return [*selection.options(), source]


def run(context: JobContext) -> JobResult:
    from lib.ingest import bronze, demo, load
    from lib.job import JobResult

    settings, lake, spark = context.settings, context.lake, context.spark
    asked = load.Asked(
        load.chosen(settings, context.options.get("regions") or (), "region"),
        load.chosen(settings, context.options.get("sources") or (), "source"),
        selection.day(context.options.get("first")),
        selection.day(context.options.get("last")),
    )
    root = load.folder(settings)
    with context.phase("landing to bronze"):
        taken = bronze.take(spark, lake, settings, root, asked.regions, asked.sources, context.run_id)
    rows: list[dict[str, Any]] = []
    with context.phase("bronze to silver"):
        begin = time.perf_counter()
        for counts in load.load(spark, lake, settings, asked, taken, root, context.run_id):
            end = time.perf_counter()
            rows.append(asdict(counts) | {"seconds": round(end - begin, 1)})
            begin = end
            context.count(**{name: number for name, number in asdict(counts).items() if name.startswith("rows_")})
    lost = sum(load.refused(spark, lake, taken, region, context.run_id) for region in asked.regions)
    bronze.close(lake, taken, context.run_id)
    context.count(files_in=len(taken.new), files_refused=lost, files_known=taken.known, rows_quarantined=lost)
    for it in taken.refused:
        context.say(f"refused: {it.problem}\n  where: {it.path}\n  remedy: {it.remedy}")
    for region in filter(lambda it: demo.holds(lake, it), asked.regions):
        what = f"networks and tiles of region {region} are the demo lake's and were left as they are"
        context.say(f"{what}\n  where: {lake.root}\n  remedy: set lake.path to another folder to have the landing's")
    files = {"files_in": len(taken.new), "files_refused": lost, "files_known": taken.known}
    return JobResult(summary={"lake": lake.root, **files, "feeds": rows}, tables={"files": [files], "rows": rows})
