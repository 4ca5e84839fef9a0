from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from delta.exceptions import ConcurrentAppendException
from pyspark.errors import AnalysisException

from lib.settings import ROOT
from lib.tables import SCHEMAS, TABLES, Column, Lake, LakeError, Table
from lib.tables import lake as lake_module
from lib.tables.quarantine import quarantine_row
from lib.tables.tiles import decode
from tests.lakes import build_tiny_lake

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DAY = date(2016, 1, 1)


@pytest.fixture
def results(spark: SparkSession) -> Callable[..., DataFrame]:
    """Rows of network_result: one a day of one region."""

    def make(region: str, *days: date, loss_kwh: float = 1.0) -> DataFrame:
        empty = dict.fromkeys(SCHEMAS["network_result"].names)
        rows = [
            empty | {"region": region, "date": day, "network_id": "n", "network_version": 1, "loss_kwh": loss_kwh}
            for day in days
        ]
        return spark.createDataFrame(rows, SCHEMAS["network_result"])

    return make


def _losses(spark: SparkSession, lake: Lake) -> dict[tuple[str, date], list[float]]:
    found: dict[tuple[str, date], list[float]] = {}
    for row in lake.read(spark, "network_result").collect():
        found.setdefault((row.region, row.date), []).append(row.loss_kwh)
    return found


def test_replacing_twice_leaves_the_rows_once(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    versions = [
        it.replace(spark, "network_result", results("a", DAY), region="a", first=DAY, last=DAY, run_id=run)
        for run in ("one", "two")
    ]
    assert versions == [1, 2]
    assert _losses(spark, it) == {("a", DAY): [1.0]}


def test_replacing_leaves_other_regions_and_days_alone(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    days = [DAY + timedelta(days=k) for k in range(3)]
    for region in ("a", "b"):
        it.replace(spark, "network_result", results(region, *days), region=region)
    it.replace(spark, "network_result", results("a", days[1], loss_kwh=2.0), region="a", first=days[1], last=days[1])
    expected = {(region, day): [1.0] for region in ("a", "b") for day in days} | {("a", days[1]): [2.0]}
    assert _losses(spark, it) == expected


def test_empty_output_replaces_too(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    next_day = DAY + timedelta(days=1)
    it.replace(spark, "network_result", results("a", DAY, next_day), region="a")
    version = it.replace(spark, "network_result", results("a"), region="a", first=DAY, last=DAY)
    assert _losses(spark, it) == {("a", next_day): [1.0]}
    assert it.replace(spark, "network_result", results("a"), region="a", first=DAY, last=DAY) == version


def test_run_ids_go_into_commits_and_nowhere_else(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    it.replace(spark, "network_result", results("o'neill"), region="o'neill")
    it.replace(spark, "network_result", results("o'neill", DAY), region="o'neill", run_id="run-7")
    assert json.loads(it.snapshot("network_result").history(1)[0]["userMetadata"]) == {"run_id": "run-7"}
    assert "run-7" not in str(it.read(spark, "network_result").collect())


def test_rows_outside_of_what_is_replaced_are_refused(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    with pytest.raises(AnalysisException, match="REPLACE_WHERE_MISMATCH"):
        it.replace(spark, "network_result", results("b", DAY), region="a", first=DAY, last=DAY)
    assert it.read(spark, "network_result").count() == 0


def test_rows_that_do_not_fit_are_refused_by_column(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    wrong = results("a", DAY).selectExpr("* except (slots, engine)", "'96' as slots")
    with pytest.raises(LakeError) as error:
        it.replace(spark, "network_result", wrong, region="a")
    assert "table network_result" in str(error.value)
    assert "column slots: expected int, actual string" in str(error.value)
    assert "column engine: expected string, but it is missing" in str(error.value)
    assert not it.exists("network_result")


def test_a_table_of_another_shape_on_disk_is_refused(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    results("a", DAY).withColumnRenamed("cos_phi", "cosphi").write.format("delta").save(it.path("network_result"))
    with pytest.raises(LakeError, match="column cos_phi: expected double, but it is missing") as error:
        it.replace(spark, "network_result", results("a", DAY), region="a")
    assert "partitioned by , expected region, date" in str(error.value)
    assert it.path("network_result") in str(error.value)


def test_a_missing_table_is_named_with_its_place(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))
    with pytest.raises(LakeError, match="no table bus_day") as error:
        it.read(spark, "bus_day")
    assert it.path("bus_day") in str(error.value)


def test_quarantine_of_one_job_leaves_that_of_another(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))

    def rows(job: str, *slots: int) -> DataFrame:
        found = [
            quarantine_row(region="a", day=DAY, job=job, table="t", key={"slot": slot}, reason="bad", remedy="mend")
            for slot in slots
        ]
        return spark.createDataFrame(found, SCHEMAS["quarantine"])

    for job in ("one", "two"):
        it.replace(spark, "quarantine", rows(job, 1, 2), region="a", first=DAY, last=DAY, job=job)
    it.replace(spark, "quarantine", rows("one"), region="a", first=DAY, last=DAY, job="one")
    assert [row.job for row in it.read(spark, "quarantine").collect()] == ["two", "two"]
    with pytest.raises(ValueError, match="partitioned by region, date, job"):
        it.replace(spark, "quarantine", rows("one"), region="a", first=DAY, last=DAY)


def test_a_table_that_is_declared_nowhere_is_given_as_itself(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))
    columns = (Column("region", "string", "region"), Column("kwh", "double", "kWh, energy"))
    made = Table("gold", "made_up", "nothing", ("region",), ("region",), columns)
    with pytest.raises(ValueError, match="no table is called made_up"):
        it.path("made_up")
    with pytest.raises(LakeError, match="no table made_up"):
        it.read(spark, made)
    rows = spark.createDataFrame([("a", 1.0)], made.schema)
    assert it.replace(spark, made, rows, region="a") == 1
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


def test_writers_at_the_same_time_both_succeed(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    it.replace(spark, "network_result", results("a", DAY), region="a")
    frames = [results("a", DAY, loss_kwh=loss) for loss in (2.0, 3.0)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda df: it.replace(spark, "network_result", df, region="a"), frames))
    assert _losses(spark, it) in ({("a", DAY): [2.0]}, {("a", DAY): [3.0]})


def test_conflicts_are_retried_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_module.time, "sleep", lambda _: None)
    calls: list[int] = []

    def lose(times: int) -> Callable[[], str]:
        def action() -> str:
            calls.append(1)
            if len(calls) <= times:
                raise ConcurrentAppendException("files were added")
            return "done"

        return action

    assert lake_module._retry("replacing", lose(2)) == "done"
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(ConcurrentAppendException):
        lake_module._retry("replacing", lose(99))
    assert len(calls) == 5
