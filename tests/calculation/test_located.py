"""Plans from Delta logs, and how their cells are handed to tasks."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from pyspark.sql import SparkSession

from lib.calculation import jvm, located
from lib.calculation.located import Cell, File, Selection
from lib.tables import Lake
from tests.lakes import FIRST


def cell(n: int, size: int, *hosts: str) -> Cell:
    return Cell("here", date.fromordinal(730_000 + n), 86_400, (File(f"f{n}", size, 3),), (File("n", 1),), hosts)


def test_a_cell_survives_its_json() -> None:
    whole = replace(
        cell(1, 10, "r1", "r2"), recorded={"network": "ab"},
        known={"cd": ({"table": "bus_day", "path": "p", "digest": "ef"},), "gh": ()},
    )  # fmt: skip
    assert Cell.from_json(whole.to_json()) == whole


def test_plan_reads_the_log_alone(tiny_lake: Lake) -> None:
    asked: list[tuple[str, date]] = []

    def length(region: str, day: date) -> int:
        asked.append((region, day))
        return 86_400

    plan = located.plan(tiny_lake, "snapshot_tile", "network", length, Selection(("south",), FIRST, FIRST))
    assert asked == [("south", FIRST)]
    (only,) = plan.cells
    assert (only.rows, only.region, len(only.files), len(only.side_files)) == (3, "south", 1, 1)
    assert only.size > 3 * 15 * 32 * 8
    assert not plan.reasons


@pytest.mark.parametrize("hosts", [[("r1",), ("r2", "r3")]])
def test_located_rows_keep_text_and_partitions(spark: SparkSession, hosts: list[tuple[str, ...]]) -> None:
    frame = jvm.located_rows(spark, [(["a", "b"], hosts[0]), (["c"], hosts[1])])
    assert frame.rdd.glom().map(lambda rows: [row.cell for row in rows]).collect() == [["a", "b"], ["c"]]


def test_blocks_of_a_local_file_lie_on_this_host(spark: SparkSession, tiny_lake: Lake) -> None:
    plan = located.plan(tiny_lake, "snapshot_tile", "network", lambda *_: 86_400)
    assert jvm.with_hosts(spark, plan.root, plan.cells[:2]) == (plan.cells[:2], ["localhost"])
