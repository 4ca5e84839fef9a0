from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError

from lib.settings import ROOT
from lib.tables import TABLES, Column, Lake, LakeError, Table
from lib.tables import lake as lake_module
from lib.tables.tiles import decode
from tests.lakes import build_tiny_lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = date(2016, 1, 1)


def test_a_missing_table_is_named_with_its_place(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))
    with pytest.raises(LakeError, match="no table bus_day") as error:
        it.read(spark, "bus_day")
    assert it.path("bus_day") in str(error.value)


def test_a_table_that_is_declared_nowhere_is_given_as_itself(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))
    columns = (Column("region", "string", "region"), Column("kwh", "double", "kWh, energy"))
    made = Table("gold", "made_up", "nothing", ("region",), ("region",), columns)
    with pytest.raises(ValueError, match="no table is called made_up"):
        it.path("made_up")
    with pytest.raises(LakeError, match="no table made_up"):
        it.read(spark, made)
    rows = spark.createDataFrame([("a", 1.0)], made.schema)
    it.create(made)
    assert it.commit(made, lambda snapshot: write_deltalake(snapshot, rows.toArrow(), mode="append")) == 1
    assert it.exists(made)
    assert it.read(spark, made).collect() == rows.collect()
    assert it.snapshot(made).metadata().configuration == it.snapshot(made, version=0).metadata().configuration
    assert it.path(made) == f"{lake}/gold/made_up"


def test_tables_are_plain_files(spark: SparkSession, tiny_lake: Lake) -> None:
    for name in ("network", "snapshot_tile"):
        snapshot = tiny_lake.snapshot(name)
        assert snapshot.metadata().configuration["delta.enableDeletionVectors"] == "false"
        assert (snapshot.protocol().min_reader_version, snapshot.protocol().min_writer_version) == (1, 2)
    comments = {row.col_name: row.comment for row in spark.sql(f"DESCRIBE delta.`{snapshot.table_uri}`").collect()}
    assert comments["p_kw"].startswith("kW, net injection, generation positive")


def test_the_documented_sql_reads_a_value_of_a_tile(spark: SparkSession, tiny_lake: Lake) -> None:
    document = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    query = next(part for part in document.split("```sql\n")[1:] if part.startswith("WITH")).split("```")[0]
    query = query.replace(".gridsink/lake/silver/snapshot_tile", tiny_lake.path("snapshot_tile"))
    found = {(row.date, row.first_slot): row.p_kw for row in spark.sql(query.replace("rural", "north")).collect()}
    tiles = tiny_lake.read(spark, "snapshot_tile").where("region = 'north'").collect()
    assert found == {(row.date, row.first_slot): decode(bytes(row.p_kw), 33)[1, 5] for row in tiles}


def test_tiles_are_written_without_dictionary_and_in_order(tiny_lake: Lake) -> None:
    files = tiny_lake.snapshot("snapshot_tile").file_uris()
    assert len(files) == 4  # two regions, two days
    for file in files:
        parquet = pq.ParquetFile(file)
        assert parquet.read(["first_slot"]).column(0).to_pylist() == [0, 32, 64]
        column = parquet.metadata.row_group(0).column(parquet.schema_arrow.names.index("p_kw"))
        assert column.compression == "UNCOMPRESSED"
        assert not column.has_dictionary_page


def test_equal_runs_leave_equal_tables(spark: SparkSession, tiny_lake: Lake, lake: Path) -> None:
    again = build_tiny_lake(spark, lake)
    for name in ("network", "snapshot_tile"):
        first, second = (it.read(spark, name).orderBy(*TABLES[name].key).collect() for it in (tiny_lake, again))
        assert first == second
        described = [it.snapshot(name) for it in (tiny_lake, again)]
        assert described[0].metadata().configuration == described[1].metadata().configuration
        assert described[0].schema() == described[1].schema()


def test_conflicts_are_retried_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_module.time, "sleep", lambda _: None)
    calls: list[int] = []

    def lose(times: int) -> Callable[[], str]:
        def action() -> str:
            calls.append(1)
            if len(calls) <= times:
                raise CommitFailedError("files were added")
            return "done"

        return action

    assert lake_module._retry("replacing", lose(2)) == "done"
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(CommitFailedError):
        lake_module._retry("replacing", lose(99))
    assert len(calls) == 5
