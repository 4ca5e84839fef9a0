"""Rank transformers by heavy load and overload, and list the episodes, over midnights too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.mining import _work_list

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult


def options() -> list[click.Parameter]:
    return _work_list.options()


def run(context: JobContext) -> JobResult:
    from lib.job import JobResult

    rows, path = _work_list.run_pipeline(context, "transformer_load")
    by, sums = ("network_id", "transformer_id"), ("heavy_hours", "overload_hours", "stake_kwh", "at_stake")
    tables = _work_list.shown(context, "transformers", rows, by, sums)
    tables |= _work_list.episodes(context, rows, "load_run", "load_episode", "excess_kwh")
    paths = [
        {"table": "pipeline_transformer_load", "path": path},
        {"table": "load_episode", "path": context.lake.path("load_episode")},
    ]
    return JobResult({"tables": paths, "lists": tables}, tables | {"tables": paths})
