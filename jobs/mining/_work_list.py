"""What the work lists have in common: run a pipeline over the days chosen, rank its rows, say where the tables are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    import pyarrow as pa

    from lib.job import JobContext


def options() -> list[click.Parameter]:
    return [
        *selection.options(),
        click.Option(["--top"], type=click.IntRange(1), default=20, show_default=True, help="Rows shown."),
        click.Option(["--recompute"], is_flag=True, help="Calculate every cell again, whatever the cache holds."),
    ]


def run_pipeline(context: JobContext, name: str) -> tuple[pa.Table, str]:
    """The pipeline's rows of the chosen days, and the path of its table."""
    from lib.algorithm import pipeline
    from lib.fusion import result
    from lib.fusion import run as fusion

    it = pipeline.load(name, context.settings, context.spark)
    outcome = fusion.run(context, it, selection.chosen(context.options), bool(context.options.get("recompute")))
    return outcome.rows, context.lake.path(result.result_table(it))


def shown(context: JobContext, title: str, rows: pa.Table, by: Sequence[str], sums: Sequence[str]) -> dict[str, Any]:
    """Terminal tables of a list: how many rows of each class, and the first rows by what is at stake."""
    from lib.fusion import worklist

    top = worklist.ranked(rows, by, sums)
    return {
        f"{title}: {rows.num_rows} rows by class": worklist.classes(rows, sums),
        f"{title}: {min(len(top), context.options['top'])} of {len(top)} to look at": top[: context.options["top"]],
    }


def episodes(context: JobContext, rows: pa.Table, runs: str, table: str, order: str) -> dict[str, Any]:
    """Brings an episode table up to date for the regions of a pipeline's rows; terminal table of those in the days
    chosen, the largest in column `order` first."""
    from lib.fusion import episodes

    chosen, settings = selection.chosen(context.options), context.settings
    zones = {name: region.time_zone for name, region in settings.regions.items()}
    with context.phase("episodes"):
        regions = set(rows["region"].to_pylist())
        found = episodes.update(context.lake, runs, table, zones, regions, context.run_id)
        here = episodes.between(found, zones, chosen.first, chosen.last).sort_by([(order, "descending")])
    top = context.options["top"]
    return {f"episodes: {min(here.num_rows, top)} of {here.num_rows}": here.slice(0, top).to_pylist()}
