"""Plans from Delta logs, and how their cells are handed to tasks."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from lib.calculation import jvm, located
from lib.calculation.local import located_tasks
from lib.calculation.located import Cell, File, assign
from lib.tables import Lake
from tests.lakes import FIRST


def cell(n: int, size: int, *hosts: str) -> Cell:
    return Cell("here", date.fromordinal(730_000 + n), 86_400, (File(f"f{n}", size, 3),), (File("n", 1),), hosts)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.integers(1, 12))
def test_assign_loses_nothing_and_balances(sizes: list[int], tasks: int) -> None:
    cells = [cell(i, size) for i, size in enumerate(sizes)]
    lists = assign(cells, tasks)
    assert sorted(c.date for some in lists for c in some) == [c.date for c in cells]
    assert all(lists)
    assert len(lists) <= tasks
    loads = [sum(c.size for c in some) for some in lists]
    # Graham's bound for LPT against the two lower bounds of any schedule.
    assert (
        max(loads)
        <= (4 / 3) * max(max(sizes), sum(sizes) / len(lists)) + max(sizes) * len(lists) / (3 * len(lists)) + 1
    )


def test_a_cell_survives_its_json() -> None:
    whole = cell(1, 10, "r1", "r2")
    assert Cell.from_json(whole.to_json()) == whole


def test_tasks_prefer_the_hosts_that_hold_their_cells() -> None:
    cells = [cell(i, 10, "r1") for i in range(4)] + [cell(9, 10, "r2", "r1")]
    tasks = located_tasks(cells, 4)
    held = {
        hosts: sorted(Cell.from_json(t).date for texts, h in tasks if h == hosts for t in texts) for _, hosts in tasks
    }
    assert held == {("r1",): [c.date for c in cells[:4]], ("r2",): [cells[4].date]}


def test_plan_reads_the_log_alone(tiny_lake: Lake) -> None:
    asked: list[tuple[str, date]] = []

    def length(region: str, day: date) -> int:
        asked.append((region, day))
        return 86_400

    plan = located.plan(tiny_lake, "snapshot_tile", "network", length, ("south",), FIRST, FIRST)
    assert asked == [("south", FIRST)]
    (only,) = plan.cells
    assert (only.rows, only.region, len(only.files), len(only.side_files)) == (3, "south", 1, 1)
    assert only.size > 3 * 15 * 32 * 8
    assert not plan.reasons
    assert plan.only(FIRST, FIRST, "north").cells == ()


@pytest.mark.parametrize("hosts", [[("r1",), ("r2", "r3")]])
def test_located_rows_keep_text_and_partitions(spark: SparkSession, hosts: list[tuple[str, ...]]) -> None:
    frame = jvm.located_rows(spark, [(["a", "b"], hosts[0]), (["c"], hosts[1])])
    assert frame.rdd.glom().map(lambda rows: [row.cell for row in rows]).collect() == [["a", "b"], ["c"]]


def test_blocks_of_a_local_file_lie_on_this_host(spark: SparkSession, tiny_lake: Lake) -> None:
    plan = located.plan(tiny_lake, "snapshot_tile", "network", lambda *_: 86_400)
    assert {c.hosts for c in jvm.with_hosts(spark, plan).cells} == {("localhost",)}
