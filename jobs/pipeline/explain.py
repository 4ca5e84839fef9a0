"""Tell what a pipeline would do: its steps in order, and how much of each is calculated already; nothing is written."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.algorithm.pipeline import Step
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")


def options() -> list[click.Parameter]:
    return [click.Argument(["name"]), *selection.options()]


def run(context: JobContext) -> JobResult:
    from lib.algorithm import pipeline
    from lib.fusion.step import verdicts
    from lib.job import JobResult

    it = pipeline.load(context.options["name"], context.settings, context.spark)
    chosen = selection.chosen(context.options)
    cells = []
    for step in it.steps:
        found = Counter(
            ("hit" if verdict.status == "current" else "miss", verdict.reason)
            for verdict in verdicts(context, step.operator, chosen)
        )
        cells += [
            {"step": step.id, "cells": count, "cache": status, "reason": reason}
            for (status, reason), count in found.most_common()
        ]
    steps = [_step_row(step) for step in it.steps]
    return JobResult(
        summary={"pipeline": it.spec.id, "steps": steps, "cells": cells},
        tables={f"pipeline {it.spec.id}: {it.spec.title}": steps, "cells": cells},
    )


def _step_row(step: Step) -> dict[str, Any]:
    from lib.algorithm.fingerprint import fingerprint

    operator = step.operator
    inputs = [operator.table] + ([operator.side.table] if operator.side else [])
    return {
        "step": step.id,
        "operator": f"{operator.name} {operator.version}",
        "fingerprint": fingerprint(operator).digest[:12],
        "after": ", ".join(step.after),
        "inputs": ", ".join(inputs),
        "columns": ", ".join(operator.columns),
        "outputs": ", ".join(operator.outputs),
        "figures": ", ".join(operator.figures),
    }
