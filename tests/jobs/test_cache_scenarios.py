"""The cache never gives a wrong hit: whatever is done to a lake, a run leaves what a cold run over it leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lib.grid import Network
from lib.tables import ARROW
from lib.tables.tiles import encode
from tests.jobs.scenarios import (
    ALL, N1, N2, NETWORK, S1, S2, SECOND, THIRD, TILES, World, calculated, day_after, in_process, is_cell, where, world,
)  # fmt: skip
from tests.jobs.solving import matrix

__all__ = ["calculated", "in_process", "world"]

Change = Callable[[World], None]


def corrected(row: dict[str, Any], factor: float = 1.1) -> dict[str, Any]:
    return row | {"p_kw": encode(matrix(row, "p_kw") * np.float32(factor))}


def one_tile(world: World, factor: float = 1.1) -> pa.Table:
    rows = [corrected(row, factor) for row in world.rows(TILES) if is_cell(row, S2, 32)]
    return pa.Table.from_pylist(rows, schema=ARROW[TILES])


def correct(world: World, factor: float = 1.1) -> None:
    """One value of one cell, as a source that sends a day again does."""
    rows = [corrected(row, factor) if row["first_slot"] == 32 else row for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, rows, mode="overwrite", predicate=where(S2))


def merge(world: World, factor: float = 1.1) -> None:
    on = " AND ".join(f"t.{name} = s.{name}" for name in ("region", "date", "network_id", "first_slot"))
    merger = world.table(TILES).merge(one_tile(world, factor), on, source_alias="s", target_alias="t")
    merger.when_matched_update_all().execute()


def merge_by_spark(world: World) -> None:
    world.spark.createDataFrame(one_tile(world)).createOrReplaceTempView("tile")
    world.sql(
        "MERGE INTO {snapshot_tile} t USING tile s ON t.region = s.region AND t.date = s.date"
        " AND t.network_id = s.network_id AND t.first_slot = s.first_slot WHEN MATCHED THEN UPDATE SET *"
    )


def rewrite(world: World) -> None:
    """The same rows in other files and in another order."""
    rows = world.rows(TILES)[::-1]
    for i in range(3):
        world.write(TILES, rows[i::3], mode="append" if i else "overwrite")


def new_day(world: World) -> None:
    world.write(TILES, day_after(world.rows(TILES), "south", THIRD), mode="append")


def upgrade_of_network(world: World) -> None:
    """Content changes, and nobody thought of the column `digest`."""
    rows = world.rows(NETWORK)
    for row in rows:
        if row["region"] == "south":
            network = Network.from_bytes(row["content"])
            row["content"] = dataclasses.replace(network, branch_y_pu=network.branch_y_pu * 1.5).to_bytes()
    world.write(NETWORK, rows, mode="overwrite")


def next_version_of_network(world: World) -> None:
    rows = [
        row | {"network_version": 2, "valid_from": SECOND} for row in world.rows(NETWORK) if row["region"] == "south"
    ]
    world.write(NETWORK, rows, mode="append")


def network_ends(world: World) -> None:
    rows = [row | {"valid_to": SECOND} for row in world.rows(NETWORK) if row["region"] == "south"]
    world.write(NETWORK, rows, mode="overwrite", predicate="region = 'south'")


def anew(world: World) -> None:
    """Another table at the same place."""
    rows = [corrected(row) if is_cell(row, N1) else row for row in world.rows(TILES)]
    shutil.rmtree(world.path(TILES))
    world.write(TILES, rows, partition_by=["region", "date"])


def lost_log(world: World) -> None:
    """A checkpoint, and no commit before it."""
    correct(world)
    world.table(TILES).create_checkpoint()
    for commit in (Path(world.path(TILES)) / "_delta_log").glob("*.json"):
        if int(commit.stem) < world.table(TILES).version():
            commit.unlink()


def another_column(world: World) -> None:
    world.sql("ALTER TABLE {snapshot_tile} ADD COLUMNS (remark string)")


def restored(world: World) -> None:
    version = world.table(TILES).version()
    correct(world)
    world.table(TILES).restore(version)


def compacted(world: World) -> None:
    world.table(TILES).optimize.compact()


def vacuumed(world: World) -> None:
    correct(world)
    for table in (TILES, NETWORK):
        world.table(table).vacuum(0, dry_run=False, enforce_retention_duration=False)


@pytest.mark.parametrize(
    ("change", "computed", "found"),
    [
        (lambda world: None, set(), set()),
        (new_day, {("south", THIRD)}, set()),
        (correct, {S2}, set()),
        (merge, {S2}, set()),
        (merge_by_spark, {S2}, set()),
        (lambda world: merge(world, 1.0), set(), {S2}),
        (lambda world: world.table(TILES).delete(where(N2, 64)), {N2}, set()),
        (lambda world: world.table(TILES).update(predicate=where(N2, 64), new_values={"slot_count": 31}), {N2}, set()),
        (rewrite, set(), ALL),
        (vacuumed, {S2}, set()),
        (restored, set(), {S2}),
        (anew, {N1}, ALL - {N1}),
        (lost_log, {S2}, ALL - {S2}),
        (another_column, set(), ALL),
        (upgrade_of_network, {S1, S2}, {N1, N2}),
        (next_version_of_network, {S2}, {S1}),
        (network_ends, {S1, S2}, set()),
    ],
)
def test_changed_inputs(world: World, change: Change, computed: set, found: set) -> None:
    change(world)
    world.check(computed, found)
    assert world.run().current == computed | found | ALL


def test_a_day_that_is_deleted_and_comes_back(world: World) -> None:
    rows = [row for row in world.rows(TILES) if is_cell(row, S2)]
    world.table(TILES).delete(where(S2))
    assert world.check(set()).gone == 1
    world.write(TILES, rows[:2], mode="append")
    world.check({S2})
    world.write(TILES, rows[2:], mode="append")  # late
    world.check(set(), {S2})
    shutil.rmtree(world.path("bus_day") + f"/region=south/date={SECOND}")
    world.table(TILES).delete(where(S2))
    world.check(set())
    world.write(TILES, rows, mode="append")  # its result files are gone
    world.check({S2})


def test_optimize_costs_nothing_and_old_files_may_go(world: World) -> None:
    rewrite(world)
    world.check(set(), ALL)
    compacted(world)
    world.check(set())
    world.sql("OPTIMIZE {snapshot_tile} ZORDER BY (first_slot)")
    world.sql("OPTIMIZE {network}")
    world.check(set())
    for table in (TILES, "bus_day", "branch_day", "network_result"):
        world.table(table).optimize.z_order(["network_id"])
        world.table(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    world.check(set())
    correct(world)
    world.check({S2})
    correct(world, 1 / 1.1)
    world.check({S2})


def test_deletion_vectors_of_an_input(world: World) -> None:
    first = world.table(TILES).version()
    world.sql("ALTER TABLE {snapshot_tile} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    world.check(set())
    world.sql("DELETE FROM {snapshot_tile} WHERE " + where(S2, 32))
    seen = world.check({S2})
    assert "deletion vectors" in seen.step.context.inputs["read_through_spark"][TILES]
    world.sql("DELETE FROM {snapshot_tile} WHERE " + where(N1))
    world.check(set())
    world.table(TILES).restore(first)
    world.check(set(), {S2, N1})


def in_bus_day(row: str) -> Change:
    return lambda world: world.sql(row.format(where=where(S1), bus_day="{bus_day}"))


def hidden_rows(world: World) -> None:
    world.sql("ALTER TABLE {bus_day} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    world.sql("DELETE FROM {bus_day} WHERE bus = 3 AND " + where(S1))


def extra_rows(world: World) -> None:
    rows = [row | {"bus": 1000} for row in world.rows("bus_day") if is_cell(row, S1)]
    world.write("bus_day", rows, mode="append")


def extra_cell(world: World) -> None:
    rows = [row | {"date": THIRD} for row in world.rows("bus_day") if is_cell(row, S1)]
    world.write("bus_day", rows, mode="append")


def earlier_version(world: World) -> None:
    """Results of before a correction."""
    version = world.table("bus_day").version()
    correct(world)
    assert world.run().computed == {S2}
    world.table("bus_day").restore(version)


def no_table(world: World) -> None:
    shutil.rmtree(world.path("branch_day"))


def damaged_and_missed(world: World) -> None:
    """A result that would be put back, but for a flipped bit."""
    (file,) = (Path(world.path("bus_day")) / f"region={S1[0]}" / f"date={S1[1]}").glob("*.parquet")
    world.table("bus_day").delete(where(S1))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "computed", "found"),
    [
        (in_bus_day("DELETE FROM {bus_day} WHERE bus = 3 AND {where}"), set(), {S1}),
        (in_bus_day("UPDATE {bus_day} SET vm_min_pu = 0.5 WHERE bus = 3 AND {where}"), set(), {S1}),
        (in_bus_day("DELETE FROM {bus_day}"), set(), ALL),
        (hidden_rows, {S1}, set()),
        (extra_rows, {S1}, set()),
        (extra_cell, set(), set()),
        (earlier_version, set(), {S2}),
        (damaged_and_missed, {S1}, set()),
    ],
)
def test_changed_results_are_put_right(world: World, change: Change, computed: set, found: set) -> None:
    change(world)
    seen = world.check(computed, found)
    for table in ("bus_day", "branch_day", "network_result"):  # Spark and delta-rs see the same
        rows = world.lake.read(world.spark, table).count()
        assert rows == seen.tables[table].num_rows > 0
    assert world.run().current == ALL


def test_a_result_table_that_is_gone(world: World) -> None:
    shutil.rmtree(world.path("branch_day"))
    world.check(ALL)


def spoil(world: World, name: str) -> None:
    """Tiles of the second day that cannot be used; `name` appears in the reason."""
    rows = [row | {"network_id": name} for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, rows, mode="overwrite", predicate=where(S2))


def test_a_cell_without_a_usable_row(world: World) -> None:
    first = world.table(TILES).version()
    spoil(world, "nowhere")
    assert world.check({S2}).quarantined == 3
    assert world.check(set()).quarantined == 3
    spoil(world, "elsewhere")
    assert world.check({S2}).quarantined == 3
    spoil(world, "nowhere")
    assert world.check(set(), {S2}).quarantined == 3
    world.table(TILES).restore(first)
    assert world.check(set(), {S2}).quarantined == 0
    spoil(world, "elsewhere")
    assert world.check(set(), {S2}).quarantined == 3


@pytest.mark.parametrize("change", ["DELETE FROM {quarantine}", "UPDATE {quarantine} SET reason = 'none'"])
def test_a_changed_quarantine_is_put_right(world: World, change: str) -> None:
    spoil(world, "nowhere")
    world.run()
    world.sql(change)
    world.check(set(), {S2})


def test_a_network_that_comes_later_changes_no_words(world: World) -> None:
    rows = world.rows(NETWORK)
    world.table(NETWORK).delete("region = 'south'")
    world.check({S1, S2})
    later = [row | {"valid_from": SECOND} for row in rows if row["region"] == "south"]
    world.write(NETWORK, later, mode="append")
    world.check({S2}, {S1})
