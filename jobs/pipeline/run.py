"""Run a pipeline where its data lies, reusing what was calculated before; write its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")
_ROWS_SHOWN = 20


def options() -> list[click.Parameter]:
    return [
        click.Argument(["name"]),
        *selection.options(),
        click.Option(["--recompute"], is_flag=True, help="Calculate every cell again, whatever the cache holds."),
    ]


def run(context: JobContext) -> JobResult:
    from lib.algorithm import pipeline
    from lib.fusion import result
    from lib.fusion import run as fusion
    from lib.job import JobResult

    it = pipeline.load(context.options["name"], context.settings, context.spark)
    report = fusion.run(context, it, selection.chosen(context.options), bool(context.options.get("recompute")))
    table = result.result_table(it)
    path, rows = context.lake.path(table), result.read(context.lake, it)
    shown = f"result: {min(rows.num_rows, _ROWS_SHOWN)} of {rows.num_rows} rows"
    return JobResult(
        summary={
            "pipeline": it.spec.id,
            "table": path,
            "rows": rows.num_rows,
            "incomplete_rows": rows["complete"].to_pylist().count(False),
            "steps": [asdict(step) for step in report.steps],
        },
        tables={
            f"pipeline {it.spec.id}": [_step_row(step) for step in report.steps],
            shown: rows.slice(0, _ROWS_SHOWN).to_pylist(),
            "tables": [{"table": table.name, "path": path}],
        },
    )


def _step_row(step: Any) -> dict[str, Any]:
    return {
        "step": step.step,
        "operator": step.operator,
        "cells": step.cells,
        "current": step.current,
        "found again": step.found,
        "computed": step.computed,
        "seconds": round(step.seconds, 2),
    }
