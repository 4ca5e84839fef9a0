"""Runs steps round by round, most useful cells first, and after each round fuses what is there into the result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lib.algorithm import figures as partials
from lib.algorithm.pipeline import Pipeline
from lib.analysis.blocks import CellKey, rounds
from lib.calculation.located import Selection
from lib.fusion import result
from lib.fusion.commit import writing
from lib.fusion.step import StepRun

if TYPE_CHECKING:
    from lib.job import JobContext

AfterRound = Callable[[Collection[CellKey]], None]


@dataclass
class PipelineRun:
    """What a run of a pipeline came to."""

    steps: dict[str, StepRun]
    rows: pa.Table
    """The result's rows of the periods that this run's selection touches."""


def run_steps(
    context: JobContext, steps: Sequence[StepRun], priority: Sequence[str] = (), after_round: AfterRound | None = None
) -> None:
    """Brings the selected cells of all steps up to date, each round through all steps before the next begins.

    steps: in an order in which a reader of a table comes after its writer.
    """
    with context.phase("plan"):
        for step in steps:
            step.refresh()
            for table in (*step.operator.outputs, "quarantine"):
                with writing(context.lake, table):
                    context.lake.create(table)
    written = {table for step in steps for table in step.operator.outputs}
    for step in steps:
        step.clear()
    todo = {key for step in steps for key in step.todo}
    if todo:
        _ = context.spark  # where it is still starting: waiting for it is no work of the first round
    finished = context.inputs.setdefault("rounds", [])
    with context.progress(len(todo), "region-days") as bar:
        for some in rounds(todo, priority):
            for step in steps:
                if step.operator.table in written:
                    with context.phase("plan"):
                        step.refresh()
                step.run([key for key in some if key in step.todo])
            if after_round is not None:
                after_round(some)
            finished.append({"cells": len(some), "seconds": round(time.perf_counter() - context.begin, 3)})
            bar.update(len(some))
    for step in steps:
        step.finish()
        context.count(rows_quarantined=sum(step.quarantined.values()))


def run(context: JobContext, pipeline: Pipeline, selection: Selection, recompute: bool = False) -> PipelineRun:
    """Runs a pipeline over the selection; its result covers whole periods, of which the selection may be a part.

    After every round the result is written again for the periods that the round touched, its rows marked incomplete
    where cells are still missing. Cells outside the selection are taken as they are, and not calculated.
    """
    spec = pipeline.spec
    whole = widened(selection, spec.period)
    steps = {step.id: StepRun(context, step.operator, whole, recompute, only=selection) for step in pipeline.steps}
    first = steps[pipeline.steps[0].id]
    fused: dict[CellKey, pa.Table] = {}

    def fuse(periods: Collection[CellKey], commit: Collection[CellKey]) -> None:
        """Fuses these (region, first day of period) and makes them the only rows of those in `commit`."""
        with context.phase("fuse"):
            wanted = [key for key in first.cells if (key[0], result.period_of(key[1], spec.period)) in periods]
            found = {name: step.partials(wanted) for name, step in steps.items()}
            done = set.intersection(*(set(some) for some in found.values()))
            tables = {name: _table(found[name], done) for name in steps}
            expected = Counter((region, result.period_of(day, spec.period)) for region, day in wanted)
            rows = result.fuse(context.spark, pipeline, tables, expected, done)
            with writing(context.lake, f"pipeline_{spec.id}"):
                result.commit(context.lake, pipeline, rows, commit, context.run_id)
            for region, day in periods:
                mask = pc.and_(pc.equal(rows["region"], region), pc.equal(rows["date"], pa.scalar(day)))
                fused[region, day] = rows.filter(mask)

    def after_round(cells: Collection[CellKey]) -> None:
        periods = {(region, result.period_of(day, spec.period)) for region, day in cells}
        fuse(periods, periods)

    run_steps(context, list(steps.values()), spec.priority, after_round)
    here = {(region, result.period_of(day, spec.period)) for region, day in first.cells}
    with_rows = _held(context, pipeline, whole)
    if (here | with_rows) - fused.keys():
        fuse(here - fused.keys(), (here | with_rows) - fused.keys())
    empty = result.result_table(pipeline).arrow.empty_table()
    return PipelineRun(steps, pa.concat_tables([empty, *(fused[key] for key in sorted(here))]))


def widened(selection: Selection, period: result.Period) -> Selection:
    """The selection, its days stretched to whole periods."""
    if period == "day" or selection.first is selection.last is None:
        return selection
    if period == "all":
        return Selection(selection.regions)
    first = selection.first and selection.first.replace(day=1)
    last = selection.last and _end_of_month(selection.last)
    return Selection(selection.regions, first, last)


def _end_of_month(day: date) -> date:
    following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return date.fromordinal(following.toordinal() - 1)


def _held(context: JobContext, pipeline: Pipeline, selection: Selection) -> set[CellKey]:
    """Periods that the result has rows of: those without cells any more lose theirs."""
    table = result.result_table(pipeline)
    if not context.lake.exists(table):
        return set()
    found = pa.table(context.lake.snapshot(table).get_add_actions(flatten=True))
    keys = zip(found["partition.region"].to_pylist(), found["partition.date"].to_pylist(), strict=True)
    return {(region, day) for region, day in keys if selection.wants(region, day) or pipeline.spec.period == "all"}


def _table(cells: dict[CellKey, bytes], done: Collection[CellKey]) -> pa.Table:
    """Partials of many cells in one table, in order of region and date."""
    tables = []
    for region, day in sorted(done):
        rows = partials.from_bytes(cells[region, day])
        n = rows.num_rows
        keys = {"region": pa.repeat(pa.scalar(region), n), "date": pa.repeat(pa.scalar(day), n)}
        tables.append(pa.table(keys | {name: rows[name] for name in rows.column_names}))
    return pa.concat_tables(tables) if tables else pa.table({})
