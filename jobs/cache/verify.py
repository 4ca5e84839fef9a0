"""Calculate a sample of the cells in the cache again and compare; without NAME those of powerflow.solve."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import click

from jobs import selection
from jobs.cache import _steps

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")


class Share(click.ParamType[float]):
    """A share above 0 and up to 1, written 1% or 0.01."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"'{value}' is no share; write 1% or 0.01, at most 100%", param, ctx)
        return share


def options() -> list[click.Parameter]:
    return [
        _steps.argument(),
        *selection.options(),
        click.Option(["--sample"], type=Share(), default="1%", show_default=True, help="Share of cells, at least one."),
        click.Option(["--seed"], type=click.IntRange(min=0), help="Of the sample.  [default: another one each time]"),
    ]


def run(context: JobContext) -> JobResult:
    from lib.fusion.verify import verify
    from lib.job import FAILED, OK, JobResult

    seed = context.options.get("seed")
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    chosen, cells, counts = selection.chosen(context.options), [], []
    for step in _steps.steps(context):
        found = verify(context, step.operator, chosen, context.options["sample"], seed)
        cells += [{"step": step.id, **row} for row in found]
        wrong = sum(row["result"] == "differs" for row in found)
        counts.append({"step": step.id, "compared": len(found), "equal": len(found) - wrong, "different": wrong})
    different = [cell for cell in cells if cell["result"] == "differs"]
    for cell in different:
        context.say(f"differs: {cell['step']}, region {cell['region']}, {cell['date']}: {cell['what']}")
    if different:
        context.say("these cells' entries are forgotten: the next run calculates them again")
    return JobResult(
        summary={"seed": seed, "steps": counts, "cells": cells},
        tables={f"compared, seed {seed}": counts} | ({"different": different} if different else {}),
        exit_code=FAILED if different else OK,
    )
