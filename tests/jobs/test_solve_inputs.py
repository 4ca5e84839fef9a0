"""powerflow.solve on inputs it cannot use: a quarantined row or a clear error, the rest done, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from lib.errors import GridsinkError
from lib.fusion import step
from lib.grid import Network
from lib.tables import ARROW, Lake
from lib.tables.tiles import encode, slot_status
from tests.jobs.solving import change_tiles, copy_lake, is_tile, matrix, results_of, rows_of, run_solve
from tests.lakes import FIRST

SECOND = FIRST + timedelta(1)
Rows = list[dict[str, Any]]


@pytest.fixture
def lake(tiny_lake: Lake, tmp_path: Path) -> Lake:
    return copy_lake(tiny_lake, tmp_path / "lake")


@pytest.fixture(scope="session")
def sound(spark: SparkSession, tiny_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Results of the sound lake."""
    lake = copy_lake(tiny_lake, tmp_path_factory.mktemp("sound") / "lake")
    run_solve(spark, lake)
    return results_of(lake)


def other_cells(table: pa.Table, region: str, day: date) -> pa.Table:
    return table.filter(~((pc.field("region") == region) & (pc.field("date") == pa.scalar(day))))


def reasons(lake: Lake) -> list[tuple[dict[str, Any], str]]:
    rows = rows_of(lake, "quarantine").to_pylist()
    assert all(row["remedy"] and row["job"] == "powerflow" for row in rows)
    return [(json.loads(row["key"]), row["reason"]) for row in rows]


def spoil(first_slot: int, **values: Any) -> Any:
    """A change of one tile of region north's first day; values may be functions of the row."""

    def change(rows: Rows) -> Rows:
        return [
            row | {k: v(row) if callable(v) else v for k, v in values.items()}
            if is_tile(row, "north", FIRST, first_slot) else row
            for row in rows
        ]  # fmt: skip

    return change


def change_networks(lake: Lake, change: Any) -> None:
    rows = rows_of(lake, "network").to_pylist()
    for row in rows:
        if row["region"] == "north":
            network = change(Network.from_bytes(row["content"]))
            row |= {"content": network.to_bytes(), "digest": "changed"}
    write_deltalake(lake.path("network"), pa.Table.from_pylist(rows, schema=ARROW["network"]), mode="overwrite")


def test_unusable_tiles_go_to_quarantine(spark: SparkSession, lake: Lake, sound: dict[str, pa.Table]) -> None:
    def change(rows: Rows) -> Rows:
        rows = spoil(0, p_kw=lambda row: row["p_kw"][:-4])(rows)
        rows = spoil(32, slot_count=33)(rows)
        south = [row for row in rows if is_tile(row, "south", FIRST)]
        return [
            *[row for row in rows if not is_tile(row, "south", FIRST)],
            south[0], south[0], south[1] | {"network_id": "nowhere"}, south[2] | {"n_bus": 7},
            south[2] | {"first_slot": 96}, south[2] | {"first_slot": 40}, south[2] | {"first_slot": 32, "q_kvar": None},
        ]  # fmt: skip

    change_tiles(lake, change)
    result, context = run_solve(spark, lake)
    found = reasons(lake)
    texts = "\n".join(reason for _, reason in found)
    for expected in (
        "4224 bytes, this one 4220", "slot_count is 33", "2 rows have this key", "no row for network_id nowhere",
        "the tile has 7 buses, its network 15", "out of range in a day of 96 slots", "first_slot is 40",
        "q_kvar is null",
    ):  # fmt: skip
        assert expected in texts
    assert context.counts == context.counts | {"rows_in": 16, "rows_out": 7, "rows_quarantined": 9}
    assert len(found) == 9
    north = rows_of(lake, "network_result").filter(
        (pc.field("region") == "north") & (pc.field("date") == pa.scalar(FIRST))
    )
    assert north["slots_converged"].to_pylist() == [32]
    assert result.tables["power flow"][0]["missing"] == 64
    for name in ("bus_day", "branch_day"):
        rest = other_cells(other_cells(rows_of(lake, name), "north", FIRST), "south", FIRST)
        assert rest.equals(other_cells(other_cells(sound[name], "north", FIRST), "south", FIRST))
    # The same run over mended rows leaves no quarantine behind.
    change_tiles(lake, lambda rows: [row for row in rows if row["date"] == SECOND])
    run_solve(spark, lake, first=FIRST, last=SECOND)
    assert rows_of(lake, "quarantine").num_rows == 0


def test_bad_slots_are_a_status(spark: SparkSession, lake: Lake, sound: dict[str, pa.Table]) -> None:
    def bad_slots(row: dict[str, Any]) -> bytes:
        p = matrix(row, "p_kw")
        p[3, 5], p[4, 6], p[:, 7] = np.nan, np.inf, -1e6
        return encode(p)

    change_tiles(lake, spoil(0, p_kw=bad_slots))
    _, context = run_solve(spark, lake)
    assert context.counts["rows_quarantined"] == 0
    at = (pc.field("region") == "north") & (pc.field("date") == pa.scalar(FIRST))
    row = rows_of(lake, "network_result").filter(at).to_pylist()[0]
    assert (row["slots"], row["slots_converged"], row["slots_bad"], row["slots_diverged"]) == (96, 93, 2, 1)
    bus = rows_of(lake, "bus_day").filter(at)
    assert set(bus["slots_valid"].to_pylist()) == {93}
    assert not np.isnan(bus["vm_min_pu"].to_numpy()).any()
    assert other_cells(rows_of(lake, "bus_day"), "north", FIRST).equals(other_cells(sound["bus_day"], "north", FIRST))


def test_a_missing_tile_and_missing_slots(spark: SparkSession, lake: Lake) -> None:
    def change(rows: Rows) -> Rows:
        rows = [row for row in rows if not is_tile(row, "north", FIRST, 32)]
        return spoil(0, slot_status=slot_status(32, [1, 2, 30]))(rows)

    change_tiles(lake, change)
    result, _ = run_solve(spark, lake)
    table = {row["region"]: row for row in result.tables["power flow"]}
    assert table["north"]["missing"] == 35
    assert table["south"]["missing"] == 0
    at = (pc.field("region") == "north") & (pc.field("date") == pa.scalar(FIRST))
    assert set(rows_of(lake, "branch_day").filter(at)["slots_valid"].to_pylist()) == {61}


@pytest.mark.parametrize(("day", "slots"), [(date(2016, 3, 27), 92), (date(2016, 10, 30), 100)])
def test_days_on_which_clocks_change(spark: SparkSession, lake: Lake, day: date, slots: int) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=1 if slots == 92 else 2)

    def change(rows: Rows) -> Rows:
        tile = next(row for row in rows if is_tile(row, "north", FIRST, 64))
        p = matrix(tile, "p_kw")
        made = []
        for first in range(0, slots, 32):
            count = min(32, slots - first)
            half = np.where(np.arange(32) == 3, 0.5, 1.0).astype(np.float32) if first == 96 else np.ones(32, np.float32)
            made.append(tile | {
                "date": day, "first_slot": first, "slot_count": count, "slot_status": slot_status(count),
                "first_ts": start + timedelta(minutes=15 * (first + 1)), "p_kw": encode((p * half)[:, :count]),
                "q_kvar": encode(matrix(tile, "q_kvar")[:, :count]),
            })  # fmt: skip
        return made

    change_tiles(lake, change)
    _, context = run_solve(spark, lake)
    assert context.counts["rows_quarantined"] == 0
    row = rows_of(lake, "network_result").to_pylist()[0]
    assert (row["slots"], row["slots_converged"]) == (slots, slots)
    bus = rows_of(lake, "bus_day")
    assert set(bus["slots_valid"].to_pylist()) == {slots}
    latest = max(t for t in bus["vm_max_ts"].to_pylist())
    assert latest <= start + timedelta(minutes=15 * slots)
    if slots == 100:  # the lightest slot is the day's last
        assert latest == start + timedelta(minutes=15 * slots)


def test_an_island_is_null_and_the_rest_solved(spark: SparkSession, lake: Lake, sound: dict[str, pa.Table]) -> None:
    def cut(network: Network) -> Network:
        y = network.branch_y_pu.copy()
        y[network.branch_to == network.n_bus - 1] = 0
        y[network.branch_from == network.n_bus - 1] = 0
        return dataclasses.replace(network, branch_y_pu=y)

    change_networks(lake, cut)
    _, context = run_solve(spark, lake, regions=("north",))
    assert context.counts["rows_quarantined"] == 0
    bus = rows_of(lake, "bus_day").to_pylist()
    dead = [row["bus"] for row in bus if row["vm_min_pu"] is None]
    assert dead == [32, 32]
    assert all(row["slots_valid"] == (0 if row["bus"] == 32 else 96) for row in bus)
    assert all(row["vm_p95_pu"] is None and row["minutes_below"] is None for row in bus if row["bus"] == 32)
    assert [row["slots_converged"] for row in rows_of(lake, "network_result").to_pylist()] == [96, 96]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_zero_impedance_quarantines_the_network(spark: SparkSession, lake: Lake, value: float, sound: Any) -> None:
    def short(network: Network) -> Network:
        y = network.branch_y_pu.copy()
        y[3] = value
        return dataclasses.replace(network, branch_y_pu=y)

    change_networks(lake, short)
    _, context = run_solve(spark, lake)
    assert (context.counts["rows_out"], context.counts["rows_quarantined"]) == (6, 6)
    assert all("zero impedance" in reason for _, reason in reasons(lake))
    south = pc.field("region") == "south"
    assert rows_of(lake, "bus_day").equals(sound["bus_day"].filter(south))


def test_a_singular_network_is_quarantined(spark: SparkSession, lake: Lake) -> None:
    def cancelled(network: Network) -> Network:
        y = network.branch_y_pu.copy()
        shunt = network.y_shunt_pu.copy()
        leaf = network.n_bus - 1
        (i,) = np.flatnonzero((network.branch_to == leaf) | (network.branch_from == leaf))[:1]
        end = int(network.branch_to[i] == leaf)
        shunt[leaf] = -y[i, end, end]  # nothing left on the diagonal ...
        y[i, 1 - end, end] = 0  # ... and no way round it
        return dataclasses.replace(network, branch_y_pu=y, y_shunt_pu=shunt, s_typical_mva=np.zeros(0, complex))

    change_networks(lake, cancelled)
    _, context = run_solve(spark, lake)
    assert (context.counts["rows_out"], context.counts["rows_quarantined"]) == (6, 6)
    assert all("cannot be solved" in reason for _, reason in reasons(lake))


def test_a_network_that_is_no_network(spark: SparkSession, lake: Lake) -> None:
    rows = [row | {"content": b"PK\x03\x04", "digest": "x"} for row in rows_of(lake, "network").to_pylist()]
    write_deltalake(lake.path("network"), pa.Table.from_pylist(rows, schema=ARROW["network"]), mode="overwrite")
    _, context = run_solve(spark, lake)
    assert (context.counts["rows_out"], context.counts["rows_quarantined"]) == (0, 12)
    assert all("not a network" in reason for _, reason in reasons(lake))
    assert rows_of(lake, "network_result").num_rows == 0


@pytest.mark.parametrize("how", ["truncated", "overwritten"])
def test_a_corrupt_parquet_file(spark: SparkSession, lake: Lake, sound: dict[str, pa.Table], how: str) -> None:
    (file,) = (Path(lake.path("snapshot_tile")) / "region=north" / f"date={FIRST}").glob("*.parquet")
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 0xFF  # one byte of a page: only its checksum tells
    file.write_bytes(content)
    _, context = run_solve(spark, lake)
    assert context.counts == context.counts | {"rows_in": 12, "rows_out": 9, "rows_quarantined": 3}
    assert all(file.name in key["file"] and "cannot be read as Parquet" in reason for key, reason in reasons(lake))
    for name in ("bus_day", "branch_day", "network_result"):
        assert rows_of(lake, name).equals(other_cells(sound[name], "north", FIRST))


def test_a_truncated_delta_log(spark: SparkSession, lake: Lake) -> None:
    log = sorted((Path(lake.path("snapshot_tile")) / "_delta_log").glob("*.json"))[-1]
    log.write_bytes(log.read_bytes()[:-200])
    with pytest.raises(GridsinkError, match="Delta log of table snapshot_tile cannot be read") as error:
        run_solve(spark, lake)
    assert "restore" in error.value.remedy
    assert not Path(lake.path("bus_day")).exists()


def test_a_file_that_has_gone(spark: SparkSession, lake: Lake) -> None:
    (file,) = (Path(lake.path("snapshot_tile")) / "region=north" / f"date={FIRST}").glob("*.parquet")
    file.unlink()
    with pytest.raises(GridsinkError, match="is not there") as error:
        run_solve(spark, lake)
    assert file.name in str(error.value)
    assert set(rows_of(lake, "network_result")["date"].to_pylist()) == {SECOND}  # the newest day was done before


def test_a_file_vacuumed_after_planning_means_a_new_plan(
    spark: SparkSession, lake: Lake, sound: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = step.plan

    def plan_then_vacuum(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(step, "plan", first)
        planned = first(*args, **options)
        change_tiles(lake, lambda rows: rows, files=2)
        DeltaTable(lake.path("snapshot_tile")).vacuum(0, dry_run=False, enforce_retention_duration=False)
        return planned

    monkeypatch.setattr(step, "plan", plan_then_vacuum)
    _, context = run_solve(spark, lake)
    assert "planned_again" in context.inputs
    assert results_of(lake)["bus_day"].equals(sound["bus_day"])


def test_an_unwritable_lake(spark: SparkSession, lake: Lake) -> None:
    if os.geteuid() == 0:  # root may write anywhere: a file where a folder should be stops it too
        Path(lake.root, "gold").write_text("in the way")
    else:
        Path(lake.root).chmod(0o500)
    with pytest.raises(GridsinkError, match="cannot be written") as error:
        run_solve(spark, lake)
    assert error.value.remedy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB with some room left for logs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(spark: SparkSession, lake: Lake, small_disk: Path, sound: dict[str, pa.Table]) -> None:
    for table in ("bus_day", "branch_day", "network_result", "quarantine"):
        lake.create(table)
    target = small_disk / "bus_day"
    shutil.move(lake.path("bus_day"), target)
    Path(lake.path("bus_day")).symlink_to(target)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize))
    with pytest.raises(GridsinkError, match="No space left") as error:
        run_solve(spark, lake)
    assert error.value.remedy
    assert rows_of(lake, "network_result").num_rows == 0
    filler.unlink()
    run_solve(spark, lake)
    assert rows_of(lake, "bus_day").equals(sound["bus_day"])


def test_deletion_vectors_take_the_way_through_spark(
    spark: SparkSession, lake: Lake, sound: dict[str, pa.Table]
) -> None:
    path = lake.path("snapshot_tile")
    change_tiles(lake, lambda rows: [*rows, *[r | {"first_slot": 96} for r in rows if is_tile(r, "north", FIRST, 0)]])
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE first_slot = 96")
    _, context = run_solve(spark, lake)
    assert "deletion vectors" in context.inputs["read_through_spark"]["snapshot_tile"]
    assert context.counts == context.counts | {"rows_in": 12, "rows_out": 12, "rows_quarantined": 0}
    for name in ("bus_day", "branch_day", "network_result"):
        assert rows_of(lake, name).equals(sound[name])


@pytest.mark.parametrize("table", ["snapshot_tile", "network"])
def test_column_mapping_takes_the_way_through_spark(
    spark: SparkSession, lake: Lake, sound: dict[str, pa.Table], table: str
) -> None:
    spark.sql(
        f"ALTER TABLE delta.`{lake.path(table)}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name', "
        "'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '5')"
    )
    _, context = run_solve(spark, lake)
    assert "column mapping" in context.inputs["read_through_spark"][table]
    assert rows_of(lake, "bus_day").equals(sound["bus_day"])


def test_a_column_added_later_reads_as_null(spark: SparkSession, lake: Lake) -> None:
    """Old files lack it; a required one that is missing is a reason per row, not a crash."""
    (file,) = (Path(lake.path("snapshot_tile")) / "region=north" / f"date={FIRST}").glob("*.parquet")
    table = pq.ParquetFile(file).read()
    pq.write_table(table.drop_columns(["slot_status"]), file)
    _, context = run_solve(spark, lake)
    assert context.counts["rows_quarantined"] == 3
    assert all(reason == "slot_status is null" for _, reason in reasons(lake))


def test_a_lake_without_inputs(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(GridsinkError, match="the lake has no table snapshot_tile"):
        run_solve(spark, Lake(str(tmp_path)))


def test_an_unknown_region(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(GridsinkError, match="no region west"):
        run_solve(spark, lake, regions=("west",))
