"""Reading ahead: order, memory, errors; and what a task makes of its cells without Spark."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.algorithm import figures
from lib.algorithm.operators.network_load import NetworkLoad
from lib.algorithm.operators.powerflow import PowerFlowOperator
from lib.calculation import located, worker
from lib.calculation.located import Cell, Plan
from lib.calculation.reading import Block, Event, read_ahead
from lib.calculation.worker import Work, run_cells
from lib.tables import Lake
from tests.lakes import FIRST

BUDGET = 1_000


def block(size: int) -> Block:
    return Block(pa.table({"x": pa.array(bytes(size), pa.uint8())}) if size else None)


@given(st.lists(st.integers(0, 3 * BUDGET), max_size=30))
def test_blocks_come_in_order_and_within_the_budget(sizes: list[int]) -> None:
    made: list[int] = []
    used: list[int] = []
    most = 0

    def events() -> Iterator[Event]:
        for size in sizes:
            made.append(size)
            yield block(size)

    for event in read_ahead(events, BUDGET):
        # What has been made and not yet used: one block is being handed over, one more waits for its place.
        in_flight = sum(made[: len(made) - 1]) - sum(used)
        most = max(most, in_flight)
        assert in_flight <= max(BUDGET, event.size, max(made))
        used.append(event.size)
    assert used == made == sizes


def test_an_error_of_reading_reaches_the_calculation() -> None:
    def events() -> Iterator[Event]:
        yield block(1)
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="on fire"):
        list(read_ahead(events, BUDGET))


def test_the_thread_ends_with_its_reader() -> None:
    before = threading.active_count()

    def events() -> Iterator[Event]:
        while True:
            yield block(BUDGET)

    reading = read_ahead(events, BUDGET)
    next(reading)
    reading.close()
    assert threading.active_count() == before


def planned(lake: Lake, operator: Any) -> Plan:
    side = operator.side.table if operator.side else None
    return located.plan(lake, operator.table, side, lambda *_: 86_400)


def reports(lake: Lake, operator: Any, cells: list[Cell], out: Path, **options: Any) -> list[dict[str, Any]]:
    plan = planned(lake, operator)
    roots = {table: str(out / table) for table in operator.outputs}
    for root in roots.values():
        Path(root).mkdir(parents=True, exist_ok=True)
    run = run_cells(Work(operator, plan.root, plan.side_root, roots, 1 << 20, **options))
    batch = pa.RecordBatch.from_pydict({"cell": [cell.to_json() for cell in cells]})
    return [
        json.loads(it["report"][0].as_py()) | {"partial": figures.from_bytes(it["figures"][0].as_py())}
        for it in run([batch])
    ]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_task_reports_each_cell_with_its_digests_and_partial(
    tiny_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    monkeypatch.setattr(worker, "is_local", lambda root: not ahead)
    operator = PowerFlowOperator()
    cells = list(planned(tiny_lake, operator).cells)
    found = reports(tiny_lake, operator, cells, tmp_path)
    assert [(it["region"], it["date"]) for it in found] == [(c.region, c.date.isoformat()) for c in cells]
    assert all(it["rows_in"] == it["rows_out"] == 3 and not it["rejected"] for it in found)
    assert all(it["inputs"].keys() == {"snapshot_tile", "network"} for it in found)
    assert len({it["digest"] for it in found}) == len(cells)
    assert all(it["partial"]["converged"].to_pylist() == [96] for it in found)
    for it in found:
        for part in it["parts"]:
            assert (tmp_path / part["table"] / part["path"]).stat().st_size == part["size"]


def test_the_digest_is_the_same_hashed_alone_before_or_on_the_way(tiny_lake: Lake, tmp_path: Path) -> None:
    operator = PowerFlowOperator()
    cell = planned(tiny_lake, operator).cells[0]
    (calculated,) = reports(tiny_lake, operator, [cell], tmp_path)
    (hashed,) = reports(tiny_lake, operator, [cell], tmp_path, hash_only=True)
    assert hashed["digest"] == calculated["digest"]
    assert not hashed["found"]
    other = replace(cell, known={"another": ()})
    (before,) = reports(tiny_lake, operator, [other], tmp_path)
    assert (before["digest"], before["found"], before["rows_out"]) == (calculated["digest"], False, 3)
    recorded = replace(cell, recorded=calculated["inputs"])
    (taken,) = reports(tiny_lake, operator, [recorded], tmp_path)
    assert taken["digest"] == calculated["digest"]


def test_a_known_result_is_found_only_with_its_files_whole(tiny_lake: Lake, tmp_path: Path) -> None:
    operator = PowerFlowOperator()
    cell = planned(tiny_lake, operator).cells[0]
    (first,) = reports(tiny_lake, operator, [cell], tmp_path)
    known = replace(cell, known={first["digest"]: tuple(first["parts"])})
    (again,) = reports(tiny_lake, operator, [known], tmp_path)
    assert (again["found"], again["rows_in"], again["parts"]) == (True, 0, [])
    file = tmp_path / first["parts"][0]["table"] / first["parts"][0]["path"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (damaged,) = reports(tiny_lake, operator, [known], tmp_path)
    assert (damaged["found"], damaged["rows_out"]) == (False, 3)
    assert "is damaged: calculated again" in damaged["note"]
    file.unlink()
    (gone,) = reports(tiny_lake, operator, [known], tmp_path)
    assert (gone["found"], gone["rows_out"]) == (False, 3)
    assert "is gone: calculated again" in gone["note"]


def test_an_operator_without_side_and_outputs(tiny_lake: Lake, tmp_path: Path) -> None:
    operator = NetworkLoad()
    cells = [cell for cell in planned(tiny_lake, operator).cells if cell.date == FIRST]
    found = reports(tiny_lake, operator, cells, tmp_path)
    assert [it["partial"].num_rows for it in found] == [1, 1]
    assert all(it["parts"] == [] and it["inputs"].keys() == {"snapshot_tile"} for it in found)
    assert all(it["memory"][0] > 0 and (it["memory"][1] is None or it["memory"][1] > 0) for it in found)
