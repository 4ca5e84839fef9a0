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
    return [click.Argument(["name"], type=selection.PipelineName()), *selection.options()]


def run(context: JobContext) -> JobResult:
    from lib.algorithm import pipeline
    from lib.job import JobResult

    it = pipeline.load(context.options["name"], context.settings, context.spark)
    found = cells.counted(cells.explained(context, it.steps, selection.chosen(context.options)))
    tables = {
        f"pipeline {it.spec.id}: {it.spec.title}": [_step_row(step) for step in it.steps],
        "inputs": [row for step in it.steps for row in _inputs(step)],
        "figures": [row for step in it.steps for row in _figures(step)],
        "result": [
            {"column": name, "type": it.types[name], "unit": column.unit, "expression": column.expression}
            for name, column in it.spec.result.items()
        ],
        "cells": found,
    }
    names = ("steps", "inputs", "figures", "result", "cells")
    return JobResult({"pipeline": it.spec.id, **dict(zip(names, tables.values(), strict=True))}, tables)


def _step_row(step: Step) -> dict[str, Any]:
    from lib.algorithm.fingerprint import fingerprint

    operator = step.operator
    return {
        "step": step.id,
        "operator": f"{operator.name} {operator.version}",
        "fingerprint": fingerprint(operator).digest[:12],
        "after": ", ".join(step.after),
        "outputs": ", ".join(operator.outputs),
    }


def _inputs(step: Step) -> list[dict[str, Any]]:
    from lib.algorithm.operator import inputs

    found = inputs(step.operator).items()
    return [{"step": step.id, "table": table, "columns": ", ".join(columns)} for table, columns in found]


def _figures(step: Step) -> list[dict[str, Any]]:
    """What the result's expressions may use."""
    from lib.algorithm.formula import Formula

    operator = step.operator
    if isinstance(operator, Formula):
        finish = {name: (column.unit, column.expression) for name, column in operator.spec.finish.items()}
        told = {name: ("", text) for name, text in operator.spec.aggregates.items()} | finish
        found = [(name, operator.types[name], *told[name]) for name in told]
    else:
        found = [(name, it.type, it.unit, it.comment) for name, it in operator.figures.items()]
        found += [(name, type(value).__name__, "", f"parameter, {value}") for name, value in step.parameters.items()]
    return [
        {"figure": f"{step.id}.{name}", "type": kind, "unit": unit, "meaning": text} for name, kind, unit, text in found
    ]
