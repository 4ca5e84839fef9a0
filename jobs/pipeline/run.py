"""Run a pipeline where its data lies, reusing what was calculated before; write its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.fusion.step import StepRun
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")
_ROWS_SHOWN = 20


def options() -> list[click.Parameter]:
    return [
        click.Argument(["name"], type=selection.PipelineName()),
        *selection.options(),
        click.Option(["--recompute"], is_flag=True, help="Calculate every cell again, whatever the cache holds."),
    ]


def run(context: JobContext) -> JobResult:
    from lib.algorithm import pipeline
    from lib.fusion import result
    from lib.fusion import run as fusion
    from lib.job import JobResult

    it = pipeline.load(context.options["name"], context.settings, context.spark)
    outcome = fusion.run(context, it, selection.chosen(context.options), bool(context.options.get("recompute")))
    steps = [_step_row(name, step) for name, step in outcome.steps.items()]
    table, rows = result.result_table(it), outcome.rows
    path = context.lake.path(table)
    incomplete = rows["complete"].to_pylist().count(False)
    shown = f"result: {min(rows.num_rows, _ROWS_SHOWN)} of {rows.num_rows} rows, {incomplete} incomplete"
    return JobResult(
        summary={
            "pipeline": it.spec.id,
            "table": path,
            "rows": rows.num_rows,
            "incomplete_rows": incomplete,
            "steps": steps,
        },
        tables={
            f"pipeline {it.spec.id}: {it.spec.title}": steps,
            shown: rows.slice(0, _ROWS_SHOWN).to_pylist(),
            "tables": [{"table": table.name, "path": path}],
        },
    )


def _step_row(name: str, step: StepRun) -> dict[str, Any]:
    counts = step.counts.values()
    return {
        "step": name,
        "operator": step.operator.name,
        "cells": sum(it.cells for it in counts),
        "current": sum(it.current for it in counts),
        "found again": sum(it.found for it in counts),
        "computed": sum(it.computed for it in counts),
        "worker seconds": round(sum(it.seconds for it in counts), 2),
    }
