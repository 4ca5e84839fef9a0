"""Tell for each cell whether its result is in the cache, and why not; without NAME for powerflow.solve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs import cells, selection
from jobs.cache import _steps

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")
_ROWS_SHOWN = 40


def options() -> list[click.Parameter]:
    return [_steps.argument(), *selection.options()]


def run(context: JobContext) -> JobResult:
    from lib.job import JobResult

    rows = cells.explained(context, _steps.steps(context), selection.chosen(context.options))
    reasons = cells.counted(rows)
    shown = f"cells: {min(len(rows), _ROWS_SHOWN)} of {len(rows)}"
    return JobResult(
        summary={"cells": rows, "reasons": reasons}, tables={shown: rows[:_ROWS_SHOWN], "by reason": reasons}
    )
