"""Which cells of a pipeline's steps the cache has, for the jobs that tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.algorithm.pipeline import Step
    from lib.calculation.located import Selection
    from lib.job import JobContext


def explained(context: JobContext, steps: Sequence[Step], chosen: Selection) -> list[dict[str, Any]]:
    """A row per step and cell: hit, miss, or depends where a step before it is to write its rows first."""
    from lib.analysis.cache import explain_rows
    from lib.fusion.step import verdicts

    rows: list[dict[str, Any]] = []
    for step in steps:
        waiting = {
            (row["region"], row["date"]): ("depends", f"step {row['step']} calculates its rows first")
            for row in rows
            if row["step"] in step.after and row["cache"] != "hit"
        }
        # before its first run a step's table may not be there
        there = not step.after or context.lake.exists(step.operator.table)
        found = explain_rows(verdicts(context, step.operator, chosen) if there else [])
        known = {(row["region"], row["date"]): (row["cache"], row["reason"]) for row in found}
        rows += [
            {"step": step.id, "region": region, "date": day, "cache": cache, "reason": reason}
            for (region, day), (cache, reason) in sorted((known | waiting).items())
        ]
    return rows


def counted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many cells of each step are in the cache or not, by reason; steps in their order, most cells first."""
    found = Counter((row["step"], row["cache"], row["reason"]) for row in rows)
    order = list(dict.fromkeys(row["step"] for row in rows))
    return [
        {"step": step, "cells": count, "cache": cache, "reason": reason}
        for (step, cache, reason), count in sorted(found.most_common(), key=lambda it: order.index(it[0][0]))
    ]
