"""Result files and their commits, without Spark."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lib.calculation.parts import Part, PartWriter, WriteFailed, commit, commit_quarantine
from lib.errors import GridsinkError
from lib.tables import ARROW, TABLES, Lake
from lib.tables.quarantine import quarantine_row

DAY, NEXT = date(2016, 1, 1), date(2016, 1, 2)
CONSTANTS = {"network_id": "n1", "network_version": 1}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    for name in ("bus_day", "quarantine"):
        DeltaTable.create(lake.path(name), ARROW[name], partition_by=list(TABLES[name].partition_by))
    return lake


def written(lake: Lake, region: str, day: date, *buses: int) -> list[Part]:
    writer = PartWriter({"bus_day": lake.path("bus_day")}, region, day)
    columns: dict[str, Any] = {
        f.name: pa.array(list(buses), pa.int64()) if f.name == "bus" else pa.nulls(len(buses), f.type)
        for f in ARROW["bus_day"] if f.name not in ("region", "date", *CONSTANTS)
    }  # fmt: skip
    for _ in range(2):
        writer.add("bus_day", pa.RecordBatch.from_pydict(columns), CONSTANTS)
    return writer.close()


def content(lake: Lake) -> list[tuple[str, date, int]]:
    rows = pa.table(DeltaTable(lake.path("bus_day")).to_pyarrow_table()).to_pylist()
    return sorted((row["region"], row["date"], row["bus"]) for row in rows)


def test_a_commit_replaces_its_regions_days_alone(lake: Lake) -> None:
    odd = "a b/ü%20'"  # a region's name is not to be trusted as a folder's
    for region in (odd, "south"):
        made = written(lake, region, DAY, 1) + written(lake, region, NEXT, 2)
        commit(lake, "bus_day", made, regions=[region], days=[DAY, NEXT], run_id="r1")
    assert content(lake) == sorted(
        (r, d, b) for r in (odd, "south") for d, b in ((DAY, 1), (NEXT, 2)) for _ in range(2)
    )
    commit(lake, "bus_day", written(lake, odd, DAY, 7), regions=[odd], days=[DAY], run_id="r2")
    commit(lake, "bus_day", [], regions=["south"], days=[NEXT], run_id="r2")
    assert content(lake) == sorted([(odd, DAY, 7)] * 2 + [(odd, NEXT, 2)] * 2 + [("south", DAY, 1)] * 2)
    latest = DeltaTable(lake.path("bus_day")).history(1)[0]
    assert latest["userMetadata"] == '{"run_id": "r2"}'


def test_files_without_a_commit_are_invisible(lake: Lake) -> None:
    (part,) = written(lake, "south", DAY, 1)
    assert (Path(lake.path("bus_day")) / part.path).stat().st_size == part.size
    assert part.rows == 2
    assert content(lake) == []


def test_quarantine_is_replaced_by_job_and_day(lake: Lake) -> None:
    def row(day: date, slot: int) -> dict[str, Any]:
        return quarantine_row(region="it's", day=day, job="a", table="t", key={"s": slot}, reason="r", remedy="m")

    options: dict[str, Any] = {"regions": ["it's"], "days": [DAY, NEXT], "run_id": "r"}
    first = commit_quarantine(lake, [], job="a", **options)
    assert first == 0  # nothing to say and nothing to take back: no commit
    commit_quarantine(lake, [row(DAY, 1), row(NEXT, 2)], job="a", **options)
    commit_quarantine(lake, [row(DAY, 1) | {"job": "b"}], job="b", **options)
    commit_quarantine(lake, [row(DAY, 3)], job="a", **options)
    rows = pa.table(DeltaTable(lake.path("quarantine")).to_pyarrow_table()).to_pylist()
    assert sorted((r["job"], r["date"], r["key"]) for r in rows) == [("a", DAY, '{"s": 3}'), ("b", DAY, '{"s": 1}')]


def test_a_file_that_cannot_be_written(lake: Lake) -> None:
    folder = Path(lake.path("bus_day")) / "region=south"
    folder.write_text("in the way")
    with pytest.raises(WriteFailed, match="table bus_day cannot be written"):
        written(lake, "south", DAY, 1)


def test_a_table_with_other_columns_is_refused(lake: Lake) -> None:
    other = Lake(f"{lake.root}/other")
    DeltaTable.create(other.path("bus_day"), pa.schema([("region", pa.string()), ("extra", pa.int32())]))
    with pytest.raises(GridsinkError, match="other columns"):
        commit(other, "bus_day", [], regions=["south"], days=[DAY], run_id="r")
