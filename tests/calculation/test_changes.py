"""What Delta logs say has changed, told by tables that delta-rs and Spark really wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow.fs import PyFileSystem
from pyspark.sql import SparkSession

from lib.calculation import changes
from lib.calculation.changes import TableLog
from lib.errors import GridsinkError
from lib.tables import Lake

ONE, TWO = date(2016, 1, 1), date(2016, 1, 2)
ODD = "a b/ü%20'"  # a region's name is not to be trusted as a folder's
TABLE = "bus_day"
CELLS = [(region, day) for region in (ODD, "south") for day in (ONE, TWO)]


def rows(region: str, day: date, *values: int) -> pa.Table:
    n = len(values)
    return pa.table({"region": [region] * n, "date": pa.array([day] * n, pa.date32()), "v": pa.array(values)})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two files in each of four cells, versions 0 to 7."""
    lake = Lake(str(tmp_path / "lake"))
    for values in ((1, 2), (3,)):
        for cell in CELLS:
            write_deltalake(
                lake.path(TABLE), rows(*cell, *values), mode="append", partition_by=["region", "date"],
                configuration={"delta.logRetentionDuration": "interval 0 seconds"},
            )  # fmt: skip
    return lake


def content(lake: Lake) -> dict[Any, list[int]]:
    """Each cell's values, as delta-rs reads them."""
    found: dict[Any, list[int]] = {cell: [] for cell in CELLS}
    for row in pa.table(DeltaTable(lake.path(TABLE)).to_pyarrow_table()).to_pylist():
        found.setdefault((row["region"], row["date"]), []).append(row["v"])
    return {cell: sorted(values) for cell, values in found.items()}


def append(t: DeltaTable) -> None:
    write_deltalake(t, rows("south", TWO, 9), mode="append")


def overwrite(t: DeltaTable) -> None:
    write_deltalake(t, rows(ODD, ONE, 9), mode="overwrite", predicate="region = 'a b/ü%20''' AND date = '2016-01-01'")


def merge(t: DeltaTable) -> None:
    source = pa.concat_tables([rows(ODD, TWO, 1), rows("south", TWO, 77)])
    condition = "t.region = s.region AND t.date = s.date AND t.v = s.v"
    merger = t.merge(source, condition, source_alias="s", target_alias="t")
    merger.when_matched_update({"v": "100"}).when_not_matched_insert_all().execute()


def delete(t: DeltaTable) -> None:
    t.delete("region = 'south' AND date = '2016-01-01' AND v = 2")


def update(t: DeltaTable) -> None:
    t.update(updates={"v": "v + 1"}, predicate="region = 'south' AND v = 3")


def restore(t: DeltaTable) -> None:
    t.restore(6)  # without the second file of (south, TWO)


CHANGES = {
    "WRITE": (append, {("south", TWO)}),
    "overwrite": (overwrite, {(ODD, ONE)}),
    "MERGE": (merge, {(ODD, TWO), ("south", TWO)}),
    "DELETE": (delete, {("south", ONE)}),
    "UPDATE": (update, {("south", ONE), ("south", TWO)}),
    "RESTORE": (restore, {("south", TWO)}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_touches_its_cells_alone(lake: Lake, name: str) -> None:
    change, touched = CHANGES[name]
    before, recorded = content(lake), TableLog(lake, TABLE)
    change(DeltaTable(lake.path(TABLE)))
    after = content(lake)
    assert {cell for cell in after if after[cell] != before.get(cell)} == touched  # what the rows themselves say
    log = TableLog(lake, TABLE)
    found = log.since(recorded.version, recorded.id)
    assert found.everything is None
    assert set(found.touched) == touched
    assert len(found.touched) == len(touched)
    operation = name if name.isupper() else "WRITE"
    assert set(found.touched.values()) == {f"version 8, {operation}"}
    for cell in CELLS:
        assert (found.of(*cell) is not None) == (cell in touched)
        assert (log.files(*cell) != recorded.files(*cell)) == (cell in touched)
    assert TableLog(lake, TABLE, 7).since(7, recorded.id).touched == {}


def test_later_changes_are_told_by_recorded_version(lake: Lake) -> None:
    for change in (append, delete, append):
        change(DeltaTable(lake.path(TABLE)))
    log = TableLog(lake, TABLE)
    assert dict(log.since(9, log.id).touched) == {("south", TWO): "version 10, WRITE"}
    assert set(log.since(3, log.id).touched) == set(CELLS)
    assert dict(log.since(7, log.id).touched) == {
        ("south", TWO): "version 10, WRITE", ("south", ONE): "version 9, DELETE",
    }  # fmt: skip
    assert log.since(10, log.id).touched == {}


def test_rewritten_files_and_vacuum_touch_nothing(lake: Lake) -> None:
    before, recorded = content(lake), TableLog(lake, TABLE)
    table = DeltaTable(lake.path(TABLE))
    table.optimize.compact()
    table.optimize.z_order(["v"])
    table.vacuum(0, enforce_retention_duration=False, dry_run=False)
    table.alter.set_table_properties({"delta.appendOnly": "false"})
    table.alter.add_constraint({"known": "v IS NOT NULL"})  # raises the protocol
    log = TableLog(lake, TABLE)
    assert log.version > recorded.version
    assert content(lake) == before
    assert (log.since(7, recorded.id).everything, dict(log.since(7, recorded.id).touched)) == (None, {})
    assert log.files("south", ONE) != recorded.files("south", ONE)


def test_a_new_column_changes_everything(lake: Lake) -> None:
    wider = rows("south", ONE, 1).append_column("w", pa.array([1]))
    write_deltalake(lake.path(TABLE), wider, mode="append", schema_mode="merge")
    write_deltalake(lake.path(TABLE), wider, mode="append")
    log = TableLog(lake, TABLE)
    assert log.since(7, log.id).everything == "version 8, WRITE, changed the schema"
    assert log.since(8, log.id).everything is None
    log = TableLog(lake, TABLE, 7)
    assert log.since(7, log.id).everything is None


def test_a_table_made_anew_or_put_back(lake: Lake) -> None:
    log = TableLog(lake, TABLE)
    assert log.since(7, "another").everything == "the table was made anew"
    assert log.since(8, log.id).everything == "version 8 was recorded, the table is at version 7"
    copy = Path(lake.root) / "copy"
    shutil.copytree(lake.path(TABLE), copy)
    append(DeltaTable(lake.path(TABLE)))
    recorded = TableLog(lake, TABLE).commit_id(8)
    shutil.rmtree(lake.path(TABLE))
    shutil.copytree(copy, lake.path(TABLE))
    delete(DeltaTable(lake.path(TABLE)))
    again = TableLog(lake, TABLE)
    assert (again.id, again.version) == (log.id, 8)
    assert again.commit_id(7) == log.commit_id(7) != ""
    assert again.commit_id(8) not in (recorded, "")
    assert again.commit_id(9) == ""


@pytest.mark.parametrize(("by_hand", "gone"), [(False, "versions 4 to 7"), (True, "version 6")])
def test_a_lost_log_changes_everything(lake: Lake, by_hand: bool, gone: str) -> None:
    for change in (append, append):
        change(DeltaTable(lake.path(TABLE)))
    table = DeltaTable(lake.path(TABLE))
    table.create_checkpoint()
    logs = Path(lake.path(TABLE)) / "_delta_log"
    for version in [6] if by_hand else range(8):
        (logs / f"{version:020d}.json").unlink()
    (logs / f"{4:020d}.{7:020d}.compacted.json").write_text("not read")
    log = TableLog(lake, TABLE)
    assert log.since(3, log.id).everything == f"the log of {gone} is gone"
    assert log.since(8, log.id).everything is None
    assert dict(log.since(7, log.id).touched) == {("south", TWO): "version 9, WRITE"}


def test_metadata_that_cannot_be_compared(lake: Lake) -> None:
    DeltaTable(lake.path(TABLE)).alter.set_table_properties({"delta.appendOnly": "false"})
    DeltaTable(lake.path(TABLE)).create_checkpoint()
    (Path(lake.path(TABLE)) / "_delta_log" / f"{0:020d}.json").unlink()
    log = TableLog(lake, TABLE)
    assert log.since(7, log.id).everything == "version 8 describes the table, and how it was described before is gone"


def edited(lake: Lake, version: int, edit: Callable[[dict[str, Any]], None]) -> TableLog:
    path = Path(lake.path(TABLE)) / "_delta_log" / f"{version:020d}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        edit(action)
    path.write_text("\n".join(map(json.dumps, actions)))
    return TableLog(lake, TABLE)


def test_a_file_removed_without_partition_values_is_told_by_its_path(lake: Lake) -> None:
    overwrite(DeltaTable(lake.path(TABLE)))

    def only_paths(action: dict[str, Any]) -> None:
        action.pop("add", None)
        action.get("remove", {}).pop("partitionValues", None)

    log = edited(lake, 8, only_paths)
    assert dict(log.since(7, log.id).touched) == {(ODD, ONE): "version 8, WRITE"}

    def other_path(action: dict[str, Any]) -> None:
        if "remove" in action:
            action["remove"]["path"] = "somewhere/x.parquet"

    log = edited(lake, 8, other_path)
    assert log.since(7, log.id).everything == "version 8, WRITE: file somewhere/x.parquet names no region and date"


def test_a_null_date_touches_all_dates(lake: Lake) -> None:
    nothing = rows("south", ONE, 1).set_column(1, "date", pa.nulls(1, pa.date32()))
    write_deltalake(lake.path(TABLE), nothing, mode="append")
    log = TableLog(lake, TABLE)
    found = log.since(7, log.id)
    assert dict(found.touched) == {("south", None): "version 8, WRITE"}
    assert (found.of("south", ONE), found.of(ODD, ONE)) == ("version 8, WRITE", None)


def test_a_table_partitioned_by_region_only(lake: Lake) -> None:
    for region in ("south", ODD):
        table = rows(region, ONE, 1).drop_columns("date")
        write_deltalake(lake.path("network"), table, mode="append", partition_by=["region"])
    log = TableLog(lake, "network")
    assert dict(log.since(0, log.id).touched) == {(ODD, None): "version 1, WRITE"}
    assert log.since(0, log.id).of(ODD, TWO) == "version 1, WRITE"


def test_a_damaged_commit_is_a_doubt_and_a_damaged_log_an_error(lake: Lake) -> None:
    append(DeltaTable(lake.path(TABLE)))
    log = TableLog(lake, TABLE)
    (Path(lake.path(TABLE)) / "_delta_log" / f"{8:020d}.json").write_text("{")
    assert "cannot be read" in str(log.since(7, log.id).everything)
    with pytest.raises(GridsinkError):
        TableLog(lake, TABLE)
    with pytest.raises(GridsinkError, match="no table"):
        TableLog(lake, "branch_day")


def test_a_log_read_through_delta_rs(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # As for hdfs:// or s3a://, which only delta-rs opens.
    from deltalake.fs import DeltaStorageHandler

    monkeypatch.setattr(changes, "filesystem", lambda root: PyFileSystem(DeltaStorageHandler(root)))
    append(DeltaTable(lake.path(TABLE)))
    log = TableLog(lake, TABLE)
    assert dict(log.since(7, log.id).touched) == {("south", TWO): "version 8, WRITE"}
    assert log.since(0, log.id).everything is None


def test_deletion_vectors_written_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    path = lake.path(TABLE)
    frame = spark.range(400).selectExpr(
        "IF(id % 2 = 0, 'north', 'south') region", "date_add(DATE'2016-01-01', int(id div 200)) date", "id v"
    )
    writer = frame.coalesce(1).write.format("delta").partitionBy("region", "date")
    writer.option("delta.enableDeletionVectors", "true").save(path)
    before = TableLog(lake, TABLE)
    spark.sql(f"DELETE FROM delta.`{path}` WHERE v = 7")
    log = TableLog(lake, TABLE)
    assert dict(log.since(0, before.id).touched) == {("south", ONE): "version 1, DELETE"}
    added = [json.loads(text) for text in (Path(path) / "_delta_log" / f"{1:020d}.json").read_text().splitlines()]
    assert any(action.get("add", {}).get("deletionVector") for action in added)
    # The file stayed where it was, and is no longer the same rows.
    assert log.files("south", ONE) != before.files("south", ONE)
    assert log.files("north", ONE) == before.files("north", ONE)
    spark.sql(
        f"MERGE INTO delta.`{path}` t USING (SELECT 'north' region, 204L v) s ON t.region = s.region AND t.v = s.v "
        "WHEN MATCHED THEN UPDATE SET t.v = -1"
    )
    found = TableLog(lake, TABLE).since(1, before.id)
    assert dict(found.touched) == {("north", TWO): "version 2, MERGE"}
    spark.sql(f"OPTIMIZE delta.`{path}`")
    spark.sql(f"REORG TABLE delta.`{path}` APPLY (PURGE)")
    log = TableLog(lake, TABLE)
    assert log.version > 2
    assert dict(log.since(2, before.id).touched) == {}
    spark.sql(f"RESTORE TABLE delta.`{path}` TO VERSION AS OF 0")
    restored = TableLog(lake, TABLE)
    found = restored.since(log.version, before.id)
    assert found.everything or {("south", ONE), ("north", TWO)} <= set(found.touched)
