"""Keep the tables small: OPTIMIZE joins small files, VACUUM deletes files that no version needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult


def options() -> list[click.Parameter]:
    return [click.Option(["--table", "tables"], multiple=True, help="Only this table; may be given again.")]


def run(context: JobContext) -> JobResult:
    from lib.ingest.maintain import maintain
    from lib.job import JobResult

    hours = context.settings.ingest.retention_hours
    rows = []
    for row in maintain(context.spark, context.lake, context.options.get("tables") or (), hours):
        rows.append(row)
        context.count(files_removed=row["files_joined"], files_added=row["files_made"])
    return JobResult(summary={"lake": context.lake.root, "retention_hours": hours}, tables={"maintenance": rows})
