"""The cache never gives a wrong hit: whatever is done to what was read, a run leaves what a cold run leaves."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.calculation import side
from lib.calculation.changes import TableLog
from lib.grid import Network
from tests.jobs.scenarios import (
    ALL,
    N1,
    N2,
    NETWORK,
    S1,
    S2,
    SECOND,
    THIRD,
    TILES,
    World,
    calculated,
    correct,
    corrected,
    day_after,
    in_process,
    is_cell,
    merge,
    one_tile,
    where,
    world,
)  # fmt: skip
from tests.lakes import FIRST

__all__ = ["calculated", "in_process", "world"]

Change = Callable[[World], None]
ROOT = Path(__file__).parents[2]


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


def test_a_network_that_comes_later_changes_no_words(world: World) -> None:
    rows = world.rows(NETWORK)
    world.table(NETWORK).delete("region = 'south'")
    world.check({S1, S2})
    later = [row | {"valid_from": SECOND} for row in rows if row["region"] == "south"]
    world.write(NETWORK, later, mode="append")
    world.check({S2}, {S1})


def test_regions_are_apart(world: World) -> None:
    correct(world)
    world.table(TILES).delete(where(N1, 0))
    seen = world.run(regions=("south",))
    assert (seen.computed, seen.current) == ({S2}, {S1})
    world.check({N1})


def test_days_are_apart(world: World) -> None:
    correct(world)
    world.table(TILES).delete(where(S1, 0))
    assert world.run(first=FIRST, last=FIRST).computed == {S1}
    world.check({S2})


def test_an_unreadable_file_is_never_taken_for_known(world: World) -> None:
    correct(world)
    (path,) = [Path(world.path(TILES), file) for file in TableLog(world.lake, TILES).files(*S2)]
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    for _ in range(2):
        assert world.check({S2}).quarantined == 3
    path.write_bytes(content)
    world.check({S2})
    world.check(set())


def test_an_unreadable_network_is_never_taken_for_known(world: World) -> None:
    rows = world.rows(NETWORK)
    world.write(NETWORK, rows, mode="overwrite")
    (path,) = [Path(world.path(NETWORK), file) for file in TableLog(world.lake, NETWORK).files("south", None)]
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    side._indexes.clear()
    assert world.check({S1, S2}, {N1, N2}).quarantined == 6
    assert world.check({S1, S2}).quarantined == 6
    path.write_bytes(content)
    side._indexes.clear()
    world.check(set(), {S1, S2})


def test_columns_that_no_operator_reads_change_nothing(world: World) -> None:
    rows = [row | {"digest": "other", "name": "other"} if "name" in row else row | {"digest": "other"}
            for row in world.rows(NETWORK)]  # fmt: skip
    world.write(NETWORK, rows, mode="overwrite")
    world.check(set(), ALL)


def test_tiles_moved_between_cells(world: World) -> None:
    """All rows of a lake stay the same, but for the day or region that they are in."""
    rows = world.rows(TILES)
    swapped = [row | {"date": SECOND if row["date"] == FIRST else FIRST} if row["region"] == "south" else row
               for row in rows]  # fmt: skip
    world.write(TILES, swapped, mode="overwrite")
    world.check({S1, S2}, {N1, N2})
    world.write(TILES, rows, mode="overwrite")
    world.check(set(), ALL)


def test_rows_twice(world: World) -> None:
    rows = [row for row in world.rows(TILES) if is_cell(row, S2, 0)]
    for count in (2, 3):
        world.write(TILES, rows, mode="append")
        assert world.check({S2}).quarantined == count
