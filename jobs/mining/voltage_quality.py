"""Rank transformer areas by time and energy outside the voltage limits, and list the episodes, over midnights too."""

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

    rows, path = _work_list.run_pipeline(context, "voltage_quality")
    by, sums = ("network_id", "transformer_id"), ("low_hours", "high_hours", "stake_kwh", "at_stake")
    tables = _work_list.shown(context, "areas", rows, by, sums)
    tables |= _work_list.episodes(context, rows, "voltage_run", "voltage_episode", "points")
    paths = [{"table": "pipeline_voltage_quality", "path": path}]
    paths += [{"table": name, "path": context.lake.path(name)} for name in ("voltage_day", "voltage_episode")]
    return JobResult({"tables": paths, "lists": tables}, tables | {"tables": paths})
