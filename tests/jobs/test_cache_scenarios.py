"""The cache never gives a wrong hit: whatever is done to a lake, a run leaves what a cold run over it leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.algorithm import fingerprint
from lib.algorithm.operators.network_load import NetworkLoad
from lib.analysis.cache import Cache
from lib.calculation import parts, side
from lib.calculation.changes import TableLog
from lib.grid import Network
from lib.tables import ARROW
from lib.tables.tiles import encode
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
    assert_same,
    calculated,
    day_after,
    in_process,
    is_cell,
    where,
    world,
)  # fmt: skip
from tests.jobs.solving import matrix
from tests.lakes import FIRST

__all__ = ["calculated", "in_process", "world"]

Change = Callable[[World], None]
ROOT = Path(__file__).parents[2]


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


def no_cache(world: World) -> None:
    shutil.rmtree(world.path("partial"))


def no_log_of_the_cache(world: World) -> None:
    shutil.rmtree(world.path("partial") + "/_delta_log")


def truncated_cache(world: World) -> None:
    for file in Path(world.path("partial")).rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-100])


def others_figures(world: World) -> None:
    """Each entry with the partial of another."""
    rows = world.rows("partial")
    figures = [row["figures"] for row in rows]
    world.write("partial", [r | {"figures": f} for r, f in zip(rows, figures[1:] + figures[:1], strict=True)],
                mode="overwrite")  # fmt: skip


def others_digests(world: World) -> None:
    rows = world.rows("partial")
    digests = [row["digest"] for row in rows]
    world.write("partial", [r | {"digest": d} for r, d in zip(rows, digests[1:] + digests[:1], strict=True)],
                mode="overwrite")  # fmt: skip


@pytest.mark.parametrize(
    "change", [no_cache, no_log_of_the_cache, truncated_cache, others_figures, others_digests]
)  # fmt: skip
def test_a_damaged_cache_is_calculated_anew(world: World, change: Change) -> None:
    change(world)
    world.check(ALL)
    assert world.run().current == ALL


def test_a_flipped_byte_anywhere_in_the_cache(world: World, tmp_path: Path) -> None:
    cold = world.cold()
    copy = world.copy(tmp_path / "copy")
    recomputed = 0
    for path in (file.relative_to(copy) for file in (copy / "cache").rglob("*.parquet")):
        for offset in np.linspace(4, (copy / path).stat().st_size - 9, 12).astype(int):
            world.put_back(copy, "cache", "gold")
            content = bytearray((copy / path).read_bytes())
            content[offset] ^= 0x10
            Path(world.lake.root, path).write_bytes(content)
            seen = world.run()
            assert_same(seen, cold)
            recomputed += bool(seen.computed)
    assert recomputed > 12  # the other bytes mean nothing


def test_an_earlier_cache(world: World) -> None:
    correct(world)
    world.run()
    world.table("partial").restore(world.table("partial").version() - 1)
    world.check({S2})


def test_a_parameter_and_back(world: World) -> None:
    world.overrides = ["solve.v_min_pu=0.96"]
    world.check(ALL)
    world.overrides = ["solve.v_min_pu=0.96", "solve.heavy_percent=60"]
    correct(world)
    world.check(ALL)
    world.overrides = []
    world.check({S2}, ALL - {S2})


def test_full_voltages_after_a_run_without(world: World) -> None:
    world.check(ALL, full_voltages=True)
    world.check(set(), ALL)
    world.check(set(), ALL, full_voltages=True)
    world.table("state_tile").delete(where(N2, 32))
    world.check(set(), {N2}, full_voltages=True)
    world.check(set(), ALL)


def test_another_time_zone(world: World) -> None:
    """Clocks change on this day in Berlin, and not in UTC."""
    spring = date(2016, 3, 27)
    rows = day_after(world.rows(TILES), "south", spring)
    rows[-1]["slot_count"] = 28
    world.write(TILES, rows, mode="append")
    world.check({("south", spring)})
    world.overrides = ["regions.south={simbench_code: none, time_zone: UTC}"]
    world.check({("south", spring)})
    world.overrides = []
    world.check(set(), {("south", spring)})


def test_another_library(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = fingerprint._version
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_version", lambda name: "99.0" if name == "numpy" else version(name))
        fingerprint._fingerprint.cache_clear()
        world.check(ALL)
    fingerprint._fingerprint.cache_clear()
    world.check(set(), ALL)


@pytest.mark.parametrize("at", ["quarantine", "bus_day", "branch_day", "network_result", "partial", "recorded"])
def test_a_run_that_dies(world: World, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Before a table's commit, or after all of them. What it left is neither taken for more nor in the way."""
    commit, record = parts.commit, Cache.record

    def dies(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    def dies_after(*arguments: Any, **options: Any) -> Any:
        record(*arguments, **options)
        raise KeyboardInterrupt

    first = world.table(TILES).version()
    correct(world)
    with monkeypatch.context() as patch:
        if at == "quarantine":
            patch.setattr(parts, "commit_quarantine", dies)
        elif at in ("partial", "recorded"):
            patch.setattr(Cache, "record", dies if at == "partial" else dies_after)
        else:
            patch.setattr(
                parts, "commit",
                lambda lake, table, *rest, **named: (dies if table == at else commit)(lake, table, *rest, **named),
            )  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            world.run()
    copy = world.copy(Path(world.lake.root).with_name("copy"))
    world.check(set() if at == "recorded" else {S2})
    world.put_back(copy, "silver", "gold", "cache")
    world.table(TILES).restore(first)  # undone, not repeated
    world.check(set(), {S2})


def test_folders_put_back_from_copies(world: World, tmp_path: Path) -> None:
    """Versions with the same numbers are not the same versions."""
    copy = world.copy(tmp_path / "copy")
    correct(world, 1.1)
    world.check({S2})
    later = world.copy(tmp_path / "later")
    world.put_back(copy, "silver")
    correct(world, 1.2)
    world.check({S2})
    world.put_back(copy, "silver")
    world.check(set(), {S2})
    world.put_back(later, "silver", "gold")  # its cache knows what came after, too
    world.check(set())
    world.put_back(copy, "gold")  # without the result's files
    world.check({S2})
    world.put_back(copy, "silver", "gold", "cache")
    correct(world, 1.3)
    world.check({S2})
    world.put_back(later, "cache")
    world.check({S2})
    world.put_back(copy, "gold", "cache")
    merge(world, 1.1)
    world.check({S2})


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


def test_an_operator_without_result_files(world: World) -> None:
    world.operator = lambda settings, options: NetworkLoad()
    first = world.table(TILES).version()
    world.check(ALL)
    broken = [row | {"n_bus": 0} for row in world.rows(TILES) if is_cell(row, S2)]
    world.write(TILES, broken, mode="overwrite", predicate=where(S2))
    assert world.check({S2}).quarantined == 3
    assert world.check(set()).quarantined == 3
    world.table(TILES).restore(first)
    assert world.check(set(), {S2}).quarantined == 0
    world.write(TILES, broken, mode="overwrite", predicate=where(S2))
    assert world.check(set(), {S2}).quarantined == 3
    world.operator = lambda settings, options: NetworkLoad(high_kw=10.0)
    world.check(ALL)


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


OPERATOR = """
from dataclasses import dataclass
from typing import ClassVar
from lib.algorithm.operators.network_load import NetworkLoad
from sunk.helper import factor

@dataclass(frozen=True)
class Scaled(NetworkLoad):
    name: ClassVar[str] = "scaled"

    def finish(self, partial, state, day):
        batches, values = super().finish(partial, state, day)
        return batches, values | {"drawn_kwh": factor() * values["drawn_kwh"]}
"""
PROGRAM = """
import json, sys
from types import SimpleNamespace
from lib.calculation import local
from lib.tables import Lake
from lib.fusion.run import run_steps
from tests.jobs.scenarios import World, run_here
from sunk.operator import Scaled

local.run = run_here
session = SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=2))
world = World(session, Lake(sys.argv[1]), None, operator=lambda settings, options: Scaled())
if len(sys.argv) > 2:  # edited while the run goes on
    step = world.step()
    open(sys.argv[2], "a").write("# edited")
    run_steps(step.context, [step])
seen = world.run()
drawn = sum(sum(table["drawn_kwh"].to_pylist()) for table in seen.partials.values())
reasons = {verdict.reason for verdict in seen.step.verdicts.values()}
print(json.dumps([len(seen.computed), len(seen.current), drawn, sorted(reasons)]))
"""


def test_a_changed_helper_of_an_operator(world: World, tmp_path: Path) -> None:
    """Each run in a process of its own, as Python keeps what it has imported."""
    package = tmp_path / "code" / "sunk"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "operator.py").write_text(OPERATOR)

    def run(helper: str, *arguments: str) -> list[Any]:
        (package / "helper.py").write_text(helper)
        path = os.pathsep.join([str(package.parent), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-B", "-c", PROGRAM, world.lake.root, *arguments], env=os.environ | {"PYTHONPATH": path},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1]))

    once = run("def factor(): return 1.0")
    assert once[:2] == [4, 0]
    assert run("# the factor\ndef factor():\n    return 1.0")[:3] == [0, 4, once[2]]
    twice = run("def factor(): return 2.0")
    assert twice[:3] == [4, 0, pytest.approx(2 * once[2])]
    assert any("source sunk.helper" in reason for reason in twice[3])
    assert run("def factor(): return 1.0")[:3] == [0, 4, once[2]]
    # What an edit may have reached is calculated, and not kept.
    assert run("def factor(): return 3.0", str(package / "helper.py"))[:2] == [4, 0]
    assert run("def factor(): return 3.0")[:2] == [4, 0]
