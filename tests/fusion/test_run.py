"""Pipelines through the cache: what steps share, what is cut off early, what is there before all is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from lib.algorithm import pipeline as pipelines
from lib.analysis.blocks import CellKey
from lib.calculation.located import Selection
from lib.fusion import result, run
from lib.job import JobContext
from tests.jobs.scenarios import ALL, N2, S1, S2, SECOND, TILES, World, calculated, in_process, is_cell, where, world
from tests.jobs.solving import copy_lake, settings_of
from tests.lakes import FIRST, tiny_lake

__all__ = ["calculated", "in_process", "tiny_lake", "world"]

VOLTAGES = """
id: voltages
title: Voltages of a month
period: month
by: [network_id]
steps:
  flow: {operator: powerflow}
  buses:
    formula:
      table: bus_day
      by: [network_id]
      aggregates: {buses: count(*), lowest: min(vm_min_pu), mean: mean(vm_mean_pu)}
result:
  lowest_pu: {expression: buses.lowest, unit: pu}
  mean_pu: {expression: buses.mean, unit: pu}
  loss_kwh: {expression: flow.loss_kwh, unit: kWh}
"""
LOADINGS = """
id: loadings
title: Loadings of a day
period: day
by: [network_id]
steps:
  flow: {operator: powerflow}
  load: {operator: network_load}
  branches:
    formula:
      table: branch_day
      by: [network_id]
      aggregates: {highest: max(loading_max_percent)}
result:
  highest_percent: {expression: branches.highest, unit: "%"}
  drawn_kwh: {expression: load.drawn_kwh, unit: kWh}
"""

Go = Callable[..., run.PipelineRun]


@pytest.fixture
def go(world: World, tmp_path: Path) -> Go:
    def start(text: str, *overrides: str, on: World = world, **selected: Any) -> run.PipelineRun:
        settings = settings_of(on.lake, *overrides)
        name = text.split()[1]
        (tmp_path / f"{name}.yaml").write_text(text)
        pipeline = pipelines.load(str(tmp_path / f"{name}.yaml"), settings, world.spark)
        context = JobContext("pipeline.run", settings, {}, "test-run", tmp_path / "_runs")
        context.__dict__["spark"] = world.spark
        return run.run(context, pipeline, Selection(**selected))

    return start


def counts(it: run.PipelineRun) -> dict[str, tuple[set[CellKey], set[CellKey]]]:
    """Step -> cells calculated, cells found again."""
    return {name: (set(step.computed), set(step._found)) for name, step in it.steps.items()}


def cold(go: Go, world: World, text: str, *overrides: str) -> pa.Table:
    """The result of a lake without a cache."""
    root = Path(world.lake.root).with_name("cold")
    lake = copy_lake(world.lake, root)
    rows = go(text, *overrides, on=World(world.spark, lake, world.empty)).rows
    shutil.rmtree(root)
    return rows


def forget_all(world: World) -> None:
    for layer in ("gold", "cache"):
        shutil.rmtree(Path(world.lake.root, layer))


def versions(world: World) -> dict[str, int]:
    logs = Path(world.lake.root).rglob("_delta_log")
    return {log.parent.name: DeltaTable(log.parent).version() for log in logs}


def test_pipelines_share_steps_and_are_cut_off_early(world: World, go: Go) -> None:
    assert counts(go(VOLTAGES)) == {"flow": (set(), set()), "buses": (ALL, set())}
    other = go(LOADINGS)
    assert counts(other) == {"flow": (set(), set()), "load": (ALL, set()), "branches": (ALL, set())}
    before = versions(world)
    for text in (VOLTAGES, LOADINGS):
        assert all(it == (set(), set()) for it in counts(go(text)).values())
    assert versions(world) == before

    # Other limits change branches' minutes, and no bus.
    it = go(VOLTAGES, "solve.heavy_percent=50")
    assert counts(it) == {"flow": (ALL, set()), "buses": (set(), ALL)}
    assert it.rows.equals(cold(go, world, VOLTAGES, "solve.heavy_percent=50"))
    it = go(VOLTAGES)
    assert counts(it) == {"flow": (set(), ALL), "buses": (set(), ALL)}

    rows = [row | {"p_kw": row["q_kvar"], "q_kvar": row["p_kw"]} for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, rows, mode="overwrite", predicate=where(S2))
    for text in (VOLTAGES, LOADINGS):
        it = go(text)
        for step, (computed, found) in counts(it).items():
            shared = step == "flow" and text == LOADINGS
            again = ALL - {S2} if step == "branches" else set()  # branch_day was written twice, and is as it was
            assert (computed, found) == (set() if shared else {S2}, again)
        assert it.rows.equals(cold(go, world, text))
    world.table(TILES).delete(where(S2))
    for text in (VOLTAGES, LOADINGS):
        it = go(text)
        assert all(it == (set(), set()) for it in counts(it).values())
        assert it.rows.equals(cold(go, world, text))


def test_formulas_see_what_others_do_to_their_table(world: World, go: Go) -> None:
    go(VOLTAGES)
    world.table("bus_day").update(predicate=where(N2), new_values={"vm_min_pu": 0.1})
    it = go(VOLTAGES)  # put right by the flow, which writes the table
    assert counts(it) == {"flow": (set(), {N2}), "buses": (set(), {N2})}
    assert it.rows.equals(cold(go, world, VOLTAGES))


def test_the_newest_day_is_there_first(world: World, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_all(world)
    seen: list[tuple[set[date], pa.Table]] = []
    commit = result.commit

    def watched(lake: Any, pipeline: Any, rows: pa.Table, *rest: Any) -> int:
        version = commit(lake, pipeline, rows, *rest)
        stored = pa.table(lake.snapshot(result.result_table(pipeline)).to_pyarrow_table())
        seen.append(({row["date"] for row in world.rows("bus_day")}, stored))
        return version

    monkeypatch.setattr(result, "commit", watched)
    it = go(VOLTAGES)
    days, rows = seen[0]
    assert days == {SECOND}
    assert rows.num_rows == 2
    assert set(rows["complete"].to_pylist()) == {False}
    assert (rows["cells"].to_pylist(), rows["cells_expected"].to_pylist()) == ([1, 1], [2, 2])
    assert set(seen[-1][1]["complete"].to_pylist()) == {True}
    assert it.rows.equals(cold(go, world, VOLTAGES))


def test_days_inside_a_month(world: World, go: Go) -> None:
    forget_all(world)
    it = go(VOLTAGES, regions=("south",), first=SECOND, last=SECOND)
    assert counts(it) == {"flow": ({S2}, set()), "buses": ({S2}, set())}
    assert it.rows.select(["region", "date", "cells", "cells_expected", "complete"]).to_pylist() == [
        {"region": "south", "date": FIRST, "cells": 1, "cells_expected": 2, "complete": False}
    ]
    it = go(VOLTAGES, regions=("south",), first=FIRST, last=FIRST)
    assert counts(it) == {"flow": ({S1}, set()), "buses": ({S1}, set())}
    assert it.rows["complete"].to_pylist() == [True]
    whole = cold(go, world, VOLTAGES)
    assert it.rows.equals(whole.filter(pc.equal(whole["region"], "south")))

    rows = [row | {"p_kw": row["q_kvar"]} for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, rows, mode="overwrite", predicate=where(S2))
    it = go(VOLTAGES, regions=("south",), first=FIRST, last=FIRST)  # the other day's result is an old one
    assert it.rows["cells"].to_pylist() == [1]
    assert it.rows["complete"].to_pylist() == [False]
