"""powerflow.solve end to end: its results against pandapower's, and what a run leaves behind however it went."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandapower as pp
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from jobs.powerflow import solve
from lib.calculation import parts
from lib.job import JobResult
from lib.tables import Lake
from lib.tables.tiles import decode
from tests.grid.cases import run_tightly
from tests.jobs.solving import (
    RESULTS,
    change_tiles,
    copy_lake,
    is_tile,
    matrix,
    results_of,
    rows_of,
    run_solve,
    settings_of,
)
from tests.lakes import FIRST, net_of

SECOND = FIRST + timedelta(1)


@pytest.fixture(scope="session")
def solved(
    spark: SparkSession, tiny_lake: Lake, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, JobResult, Any]:
    """The tiny lake solved once, to read only."""
    lake = copy_lake(tiny_lake, tmp_path_factory.mktemp("solved") / "lake")
    result, context = run_solve(spark, lake)
    return lake, result, context


def assert_equal(actual: dict[str, pa.Table], expected: dict[str, pa.Table]) -> None:
    for name in RESULTS:
        assert actual[name].equals(expected[name]), f"{name} differs"


def pandapower_day(lake: Lake, region: str, day: date) -> dict[str, np.ndarray]:
    """pandapower's results for the same float32 injections: (n, 96) arrays."""
    tiles = [row for row in rows_of(lake, "snapshot_tile").to_pylist() if is_tile(row, region, day)]
    p, q = (np.concatenate([matrix(row, name) for row in tiles], axis=1).astype(float) for name in ("p_kw", "q_kvar"))
    net = net_of(region)
    buses = [
        row["bus"] for row in rows_of(lake, "bus_day").to_pylist() if is_tile(row | {"first_slot": 0}, region, day)
    ]
    for table in ("load", "sgen", "storage"):
        net[table].drop(net[table].index, inplace=True)
    for bus in buses:
        pp.create_load(net, bus, 0.0, 0.0)
    found: dict[str, list[np.ndarray]] = {
        "vm": [],
        "line": [],
        "line_loss": [],
        "trafo": [],
        "trafo_loss": [],
        "infeed": [],
    }
    for slot in range(96):
        net.load["p_mw"], net.load["q_mvar"] = -p[:, slot] / 1e3, -q[:, slot] / 1e3
        run_tightly(net, "t")
        found["vm"].append(net.res_bus.vm_pu.loc[buses].to_numpy())
        found["line"].append(net.res_line.loading_percent.to_numpy())
        found["line_loss"].append(net.res_line.pl_mw.to_numpy())
        found["trafo"].append(net.res_trafo.loading_percent.to_numpy())
        found["trafo_loss"].append(net.res_trafo.pl_mw.to_numpy())
        found["infeed"].append(net.res_ext_grid[["p_mw", "q_mvar"]].sum().to_numpy())
    return {name: np.array(values).T for name, values in found.items()}


@pytest.mark.parametrize(("region", "day"), [("north", FIRST), ("south", SECOND)])
def test_results_equal_pandapowers(solved: tuple[Lake, JobResult, Any], region: str, day: date) -> None:
    lake = solved[0]
    expected = pandapower_day(lake, region, day)
    at = (pc.field("region") == region) & (pc.field("date") == pa.scalar(day))
    bus, branch, network = (rows_of(lake, name).filter(at).to_pydict() for name in RESULTS[:3])

    def ts(slot: np.ndarray) -> list[Any]:
        start = np.datetime64(day) - np.timedelta64(1, "h")  # Berlin in winter
        return [x.item() for x in start + (slot + 1) * np.timedelta64(15, "m")]

    vm = expected["vm"]
    for name, value in (
        ("vm_min_pu", vm.min(axis=1)), ("vm_mean_pu", vm.mean(axis=1)), ("vm_max_pu", vm.max(axis=1)),
        ("vm_p95_pu", np.percentile(vm, 95, axis=1)),
    ):  # fmt: skip
        np.testing.assert_allclose(bus[name], value, rtol=0, atol=1e-8, err_msg=name)
    distinct = np.ptp(vm, axis=1) > 1e-6  # a source's bus has its lowest voltage in every slot
    for name, slot in (("vm_min_ts", vm.argmin(axis=1)), ("vm_max_ts", vm.argmax(axis=1))):
        actual = [t.replace(tzinfo=None) for t in bus[name]]
        assert [a for a, d in zip(actual, distinct, strict=True) if d] == [
            a for a, d in zip(ts(slot), distinct, strict=True) if d
        ]
    np.testing.assert_array_equal(bus["minutes_below"], 15 * (vm < 0.9).sum(axis=1))
    np.testing.assert_array_equal(bus["minutes_above"], 15 * (vm > 1.1).sum(axis=1))
    assert set(bus["slots_valid"]) == {96}

    net = net_of(region)
    for kind in ("line", "trafo"):
        rows = {
            e: i for i, (t, e) in enumerate(zip(branch["element_type"], branch["element"], strict=True)) if t == kind
        }
        for place, element in enumerate(net[kind].index):
            if element not in rows or np.isnan(expected[kind][place]).any():
                continue
            row = rows[element]
            np.testing.assert_allclose(branch["loading_max_percent"][row], expected[kind][place].max(), rtol=1e-6)
            loss = expected[f"{kind}_loss"][place].sum() * 250
            np.testing.assert_allclose(branch["loss_kwh"][row], loss, rtol=1e-6, atol=1e-3)
    infeed = expected["infeed"].sum(axis=1) * 250
    np.testing.assert_allclose([network["infeed_p_kwh"][0], network["infeed_q_kvarh"][0]], infeed, rtol=1e-7)
    losses = (np.nansum(expected["line_loss"]) + np.nansum(expected["trafo_loss"])) * 250
    np.testing.assert_allclose(network["loss_kwh"][0], losses, rtol=1e-6)
    assert (network["slots"][0], network["slots_converged"][0], network["slots_bad"][0]) == (96, 96, 0)


def test_counts_and_summary(solved: tuple[Lake, JobResult, Any]) -> None:
    lake, result, context = solved
    counts = context.counts
    assert (counts["rows_in"], counts["rows_out"], counts["rows_quarantined"]) == (12, 12, 0)
    assert counts["bytes_read"] > 0
    assert 0 < counts["bytes_returned"] < 20_000
    assert context.inputs["snapshot_tile"]["version"] == DeltaTable(lake.path("snapshot_tile")).version()
    assert len(context.inputs["tasks"]) == 4
    assert {row["region"]: (row["days"], row["snapshots"]) for row in result.tables["power flow"]} == {
        "north": (2, 192), "south": (2, 192),
    }  # fmt: skip
    json.dumps(result.summary)


def test_spark_reads_the_same_rows(spark: SparkSession, solved: tuple[Lake, JobResult, Any]) -> None:
    lake = solved[0]
    for name in RESULTS[:3]:
        actual = lake.read(spark, name).toArrow()
        expected = rows_of(lake, name)
        assert actual.num_rows == expected.num_rows > 0
        keys = [(c, "ascending") for c in ("region", "date", *(("bus",) if name == "bus_day" else ("engine",)))]
        if name != "branch_day":
            column = "vm_min_ts" if name == "bus_day" else "loss_kwh"
            assert actual.sort_by(keys).column(column).to_pylist() == expected.sort_by(keys).column(column).to_pylist()


def test_a_second_run_leaves_equal_tables(spark: SparkSession, tiny_lake: Lake, tmp_path: Path, solved: Any) -> None:
    lake = copy_lake(tiny_lake, tmp_path / "lake")
    run_solve(spark, lake)
    first = results_of(lake)
    result, _ = run_solve(spark, lake)
    assert [row["computed"] for row in result.tables["power flow"]] == [0, 0]
    assert_equal(results_of(lake), first)
    result, _ = run_solve(spark, lake, recompute=True)
    assert [row["computed"] for row in result.tables["power flow"]] == [2, 2]
    assert_equal(results_of(lake), first)
    assert_equal(first, results_of(solved[0]))
    files = DeltaTable(lake.path("bus_day")).file_uris()
    assert len(files) == 4  # one a region and day


def test_any_split_into_files_gives_the_same_bits(
    spark: SparkSession, tiny_lake: Lake, tmp_path: Path, solved: Any
) -> None:
    lake = copy_lake(tiny_lake, tmp_path / "lake")
    change_tiles(lake, lambda rows: rows[::-1], files=5)
    run_solve(spark, lake)
    assert_equal(results_of(lake), results_of(solved[0]))


def test_backfill_touches_only_what_is_asked_for(
    spark: SparkSession, tiny_lake: Lake, tmp_path: Path, solved: Any
) -> None:
    lake = copy_lake(tiny_lake, tmp_path / "lake")
    run_solve(spark, lake, first=SECOND, last=SECOND, regions=("south",))
    done = rows_of(lake, "network_result")
    assert list(zip(done["region"].to_pylist(), done["date"].to_pylist(), strict=True)) == [("south", SECOND)]
    change_tiles(lake, lambda rows: [row for row in rows if not is_tile(row, "south", SECOND)])
    run_solve(spark, lake, first=FIRST, last=SECOND)
    assert {(r["region"], r["date"]) for r in rows_of(lake, "bus_day").to_pylist()} == {
        ("north", FIRST), ("north", SECOND), ("south", FIRST),
    }  # fmt: skip


def test_a_run_killed_between_commits_is_completed(
    spark: SparkSession, tiny_lake: Lake, tmp_path: Path, solved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = copy_lake(tiny_lake, tmp_path / "lake")
    whole = parts.commit

    def dies(lake: Lake, table: str, *args: Any, **options: Any) -> int:
        if table == "network_result":
            raise KeyboardInterrupt
        return whole(lake, table, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            run_solve(spark, lake)
    assert rows_of(lake, "bus_day").num_rows > 0
    assert rows_of(lake, "network_result").num_rows == 0  # not complete, and says so
    run_solve(spark, lake)
    assert_equal(results_of(lake), results_of(solved[0]))


def test_full_voltages(spark: SparkSession, tiny_lake: Lake, tmp_path: Path) -> None:
    lake = copy_lake(tiny_lake, tmp_path / "lake")
    run_solve(spark, lake, full_voltages=True, first=FIRST, last=FIRST, regions=("south",))
    tiles = rows_of(lake, "state_tile").to_pylist()
    assert [tile["first_slot"] for tile in tiles] == [0, 32, 64]
    vm = np.concatenate([decode(tile["vm_pu"], tile["n_bus"]) for tile in tiles], axis=1)
    bus = rows_of(lake, "bus_day").to_pydict()
    np.testing.assert_allclose(vm.min(axis=1), bus["vm_min_pu"], rtol=1e-6)
    np.testing.assert_allclose(vm.mean(axis=1), bus["vm_mean_pu"], rtol=1e-6)
    assert all(tile["slot_status"] == bytes(32) for tile in tiles)


def test_dry_run_plan_needs_no_spark(tiny_lake: Lake) -> None:
    rows = solve.plan(settings_of(tiny_lake), {"regions": ("north",)})
    assert [(row["region"], row["days"], row["rows"]) for row in rows] == [("north", 2, 6)]
