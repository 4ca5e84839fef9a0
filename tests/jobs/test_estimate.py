"""powerflow.estimate end to end: voltages against the power flow's, bad measurements, telemetry, and running twice."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from jobs.powerflow import estimate
from lib.grid import Network
from lib.grid.powerflow import solve
from lib.job import JobContext, JobResult
from lib.tables import ARROW, Lake
from lib.tables.tiles import encode
from tests.jobs.solving import change_tiles, copy_lake, matrix, rows_of, run_solve, settings_of
from tests.lakes import FIRST

TABLES = ("state_day", "bad_measurement", "unobservable_island", "network_estimate", "quarantine")
NAMES = {"north": "case33bw", "south": "cigre_mv"}


def run(spark: SparkSession, lake: Lake, **options: Any) -> JobResult:
    context = JobContext(estimate.JOB, settings_of(lake), options, "test-run", Path(lake.root) / "_runs" / "test")
    context.__dict__["spark"] = spark
    return estimate.run(context)


def tables_of(lake: Lake) -> dict[str, pa.Table]:
    return {name: rows_of(lake, name) for name in TABLES}


def networks(lake: Lake) -> dict[str, Network]:
    return {row["region"]: Network.from_bytes(row["content"]) for row in rows_of(lake, "network").to_pylist()}


def with_voltages(lake: Lake) -> None:
    """Meters' voltages in every tile, within their class; one of the north is 20 % off in slot 41 of the first day."""
    found, rng = networks(lake), np.random.default_rng(0)

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            network = found[row["region"]]
            vm = solve(network, matrix(row, "p_kw"), matrix(row, "q_kvar"), scale=1e-3).vm_pu
            vm = vm + 0.002 * rng.standard_normal(vm.shape)
            if (row["region"], row["date"], row["first_slot"]) == ("north", FIRST, 32):
                vm[10, 9] *= 1.2
            row["u_v"] = encode(vm * network.vn_kv[: network.n_bus, None] * 1e3 / math.sqrt(3))
        return rows

    change_tiles(lake, change)


def with_telemetry(lake: Lake, offset_kv: float = 0.0) -> None:
    """The voltage of a bus of the south on the first day, as power flow has it, and a point that is nowhere."""
    network, row = networks(lake)["south"], 5
    tiles = [r for r in rows_of(lake, "snapshot_tile").to_pylist() if (r["region"], r["date"]) == ("south", FIRST)]
    vm = [solve(network, matrix(r, "p_kw"), matrix(r, "q_kvar"), scale=1e-3).vm_pu[row] for r in tiles]
    ts = [r["first_ts"] + timedelta(seconds=900 * k) for r in tiles for k in range(r["slot_count"])]
    point = {
        "region": "south", "date": FIRST, "point_id": "p1", "network_id": tiles[0]["network_id"],
        "element_type": "bus", "element": int(network.bus_ids[row]), "measurement_type": "v", "unit": "kV", "ts": ts,
        "value": (np.concatenate(vm) * network.vn_kv[row] + offset_kv).tolist(), "valid": [True] * len(ts),
    }  # fmt: skip
    table = pa.Table.from_pylist([point, point | {"point_id": "p2", "element": 999}], schema=ARROW["telemetry_day"])
    lake.create("telemetry_day")
    write_deltalake(lake.path("telemetry_day"), table, mode="overwrite")


@pytest.fixture(scope="module")
def measured(tiny_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The tiny lake with voltages and telemetry, to copy."""
    lake = copy_lake(tiny_lake, tmp_path_factory.mktemp("measured") / "lake")
    with_voltages(lake)
    with_telemetry(lake)
    return lake


def test_without_voltages_and_telemetry_it_is_the_power_flow(
    spark: SparkSession, tiny_lake: Lake, tmp_path: Path
) -> None:  # fmt: skip
    lake = copy_lake(tiny_lake, tmp_path / "lake")
    result = run(spark, lake)
    run_solve(spark, lake)
    estimated, solved = rows_of(lake, "state_day").to_pylist(), rows_of(lake, "bus_day").to_pylist()
    assert len(estimated) == len(solved) == 2 * (33 + 15)
    for a, b in zip(estimated, solved, strict=True):
        assert (a["region"], a["date"], a["bus"], a["slots_valid"]) == (b["region"], b["date"], b["bus"], 96)
        for name in ("vm_min_pu", "vm_mean_pu", "vm_max_pu"):
            assert a[name] == pytest.approx(b[name], abs=1e-6)
    for row in rows_of(lake, "network_estimate").to_pylist():
        assert (row["slots"], row["slots_estimated"], row["slots_tested"], row["islands"]) == (96, 96, 0, 0)
    assert rows_of(lake, "bad_measurement").num_rows == 0
    assert result.summary["regions"]["north"]["estimated"] == 192


def test_a_wrong_meter_and_a_lost_point_are_listed_and_the_second_run_finds_everything_done(
    spark: SparkSession, measured: Lake, tmp_path: Path
) -> None:  # fmt: skip
    lake = copy_lake(measured, tmp_path / "lake")
    first = run(spark, lake)
    tables = tables_of(lake)
    worst = first.summary["bad_measurements"][0]
    bus = int(networks(lake)["north"].bus_ids[10])
    assert (worst["region"], worst["network_id"], worst["measurement_type"], worst["element"]) == (
        "north", tables["state_day"]["network_id"][0].as_py(), "v", bus,
    )  # fmt: skip
    first_ts = next(r["first_ts"] for r in rows_of(lake, "snapshot_tile").to_pylist() if r["first_slot"] == 32)
    assert worst["ts"] == f"{first_ts + timedelta(seconds=9 * 900):%Y-%m-%d %H:%M}"
    assert worst["value"] == pytest.approx(1.2 * worst["estimated"], rel=0.02)
    assert worst["unit"] == "pu"
    assert tables["bad_measurement"].num_rows <= 5  # of 384 snapshots, clean ones lose one with probability 0.005
    (lost,) = tables["quarantine"].to_pylist()
    assert (lost["table"], lost["job"], lost["key"]) == ("telemetry_day", "estimate", '{"point_id": "p2"}')
    assert "bus 999 is not in service" in lost["reason"]
    south = {row["date"]: row for row in tables["network_estimate"].to_pylist() if row["region"] == "south"}
    assert [(south[d]["points"], south[d]["points_unplaced"]) for d in sorted(south)] == [(1, 1), (0, 0)]
    days = sorted(south)
    assert south[days[0]]["degrees_of_freedom_mean"] == south[days[1]]["degrees_of_freedom_mean"] + 1

    again = run(spark, lake)
    assert [again.summary["regions"][name]["computed"] for name in NAMES] == [0, 0]
    assert again.summary["bad_measurements"] == first.summary["bad_measurements"]
    with_telemetry(lake)  # the same rows in another file
    assert [run(spark, lake).summary["regions"][name]["computed"] for name in NAMES] == [0, 0]
    run(spark, lake, recompute=True)
    assert all(tables_of(lake)[name].equals(tables[name]) for name in TABLES)
    with_telemetry(lake, offset_kv=1.0)  # other rows of one day: that day is calculated, and it shows
    changed = run(spark, lake)
    assert [changed.summary["regions"][name]["computed"] for name in NAMES] == [0, 1]
    bad = rows_of(lake, "bad_measurement").to_pylist()
    assert {row["slot"] for row in bad if row["source"] == "telemetry" and row["point_id"] == "p1"} == set(range(96))


def test_telemetry_that_only_spark_can_read_gives_the_same(
    spark: SparkSession, measured: Lake, tmp_path: Path
) -> None:  # fmt: skip
    lake = copy_lake(measured, tmp_path / "lake")
    run(spark, lake, regions=("south",))
    expected = tables_of(lake)
    path = lake.path("telemetry_day")
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    table = pa.Table.from_pylist([{"region": "south", "date": FIRST, "point_id": "p3"}], schema=ARROW["telemetry_day"])
    frame = spark.createDataFrame(table)
    frame.coalesce(1).write.format("delta").mode("append").save(path)
    spark.sql(f"DELETE FROM delta.`{path}` WHERE point_id = 'p3'")
    run(spark, lake, regions=("south",), recompute=True)
    assert all(tables_of(lake)[name].equals(expected[name]) for name in TABLES)


def test_a_damaged_file_of_telemetry_puts_its_day_into_quarantine(
    spark: SparkSession, measured: Lake, tmp_path: Path
) -> None:  # fmt: skip
    lake = copy_lake(measured, tmp_path / "lake")
    (file,) = DeltaTable(lake.path("telemetry_day")).file_uris()
    Path(file).write_bytes(b"PAR1 nonsense PAR1")
    result = run(spark, lake, regions=("south",))
    lost = rows_of(lake, "quarantine").to_pylist()
    assert [(row["table"], row["date"]) for row in lost] == [("snapshot_tile", FIRST)] * 3
    assert all("cannot be read as Parquet" in row["reason"] for row in lost)
    assert result.summary["regions"]["south"]["rows_quarantined"] == 3
    assert {row["date"] for row in rows_of(lake, "network_estimate").to_pylist()} == {FIRST + timedelta(1)}
