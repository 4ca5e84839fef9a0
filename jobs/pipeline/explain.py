"""Tell what a pipeline would do: its steps in order, and how much of each is calculated already; nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobs import cells, selection

if TYPE_CHECKING:
    from lib.algorithm.pipeline import Step
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")


def options() -> list[click.Parameter]:
    return [click.Argument(["name"]), *selection.options()]


def run(context: JobContext) -> JobResult:
    from lib.algorithm import pipeline
    from lib.job import JobResult

    it = pipeline.load(context.options["name"], context.settings, context.spark)
    found = cells.counted(cells.explained(context, it.steps, selection.chosen(context.options)))
    steps = [_step_row(step) for step in it.steps]
    return JobResult(
        summary={"pipeline": it.spec.id, "steps": steps, "cells": found},
        tables={f"pipeline {it.spec.id}: {it.spec.title}": steps, "cells": found},
    )


def _step_row(step: Step) -> dict[str, Any]:
    from lib.algorithm.fingerprint import fingerprint
    from lib.algorithm.operator import inputs

    operator = step.operator
    return {
        "step": step.id,
        "operator": f"{operator.name} {operator.version}",
        "fingerprint": fingerprint(operator).digest[:12],
        "after": ", ".join(step.after),
        "inputs": "; ".join(f"{table} ({', '.join(columns)})" for table, columns in inputs(operator).items()),
        "outputs": ", ".join(operator.outputs),
        "figures": ", ".join(operator.figures),
    }
