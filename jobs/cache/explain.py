"""Tell for each cell whether its result is in the cache, and why not; without NAME for powerflow.solve."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from jobs import selection
from jobs.cache import _steps

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")
_ROWS_SHOWN = 40


def options() -> list[click.Parameter]:
    return [_steps.argument(), *selection.options()]


def run(context: JobContext) -> JobResult:
    from lib.fusion.step import verdicts
    from lib.job import JobResult

    chosen = selection.chosen(context.options)
    cells = [
        {
            "step": step.id,
            "region": verdict.region,
            "date": verdict.date,
            "cache": "hit" if verdict.status == "current" else "miss",
            "reason": verdict.reason,
        }
        for step in _steps.steps(context)
        for verdict in verdicts(context, step.operator, chosen)
    ]
    counted = Counter((cell["step"], cell["cache"], cell["reason"]) for cell in cells)
    reasons = [
        {"step": step, "cells": count, "cache": status, "reason": reason}
        for (step, status, reason), count in counted.most_common()
    ]
    shown = f"cells: {min(len(cells), _ROWS_SHOWN)} of {len(cells)}"
    return JobResult(
        summary={"cells": cells, "reasons": reasons}, tables={shown: cells[:_ROWS_SHOWN], "reasons": reasons}
    )
