"""Rows of a DataFrame in place of a region's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lib.calculation.replace import replace
from lib.tables import SCHEMAS, Lake, LakeError

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
        replace(it, "network_result", results("a", DAY), region="a", first=DAY, last=DAY, run_id=run)
        for run in ("one", "two")
    ]
    assert versions == [1, 2]
    assert _losses(spark, it) == {("a", DAY): [1.0]}


def test_replacing_leaves_other_regions_and_days_alone(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    days = [DAY + timedelta(days=k) for k in range(3)]
    for region in ("a", "b"):
        replace(it, "network_result", results(region, *days), region=region)
    replace(it, "network_result", results("a", days[1], loss_kwh=2.0), region="a", first=days[1], last=days[1])
    expected = {(region, day): [1.0] for region in ("a", "b") for day in days} | {("a", days[1]): [2.0]}
    assert _losses(spark, it) == expected


def test_empty_output_replaces_too(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    next_day = DAY + timedelta(days=1)
    replace(it, "network_result", results("a", DAY, next_day), region="a")
    version = replace(it, "network_result", results("a"), region="a", first=DAY, last=DAY)
    assert _losses(spark, it) == {("a", next_day): [1.0]}
    assert replace(it, "network_result", results("a"), region="a", first=DAY, last=DAY) == version


def test_run_ids_go_into_commits_and_nowhere_else(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    replace(it, "network_result", results("o'neill"), region="o'neill")
    replace(it, "network_result", results("o'neill", DAY), region="o'neill", run_id="run-7")
    assert json.loads(it.snapshot("network_result").history(1)[0]["userMetadata"]) == {"run_id": "run-7"}
    assert "run-7" not in str(it.read(spark, "network_result").collect())


def test_rows_outside_of_what_is_replaced_are_refused(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    both = results("a", DAY).union(results("b", DAY)).union(results("a", DAY + timedelta(days=1)))
    with pytest.raises(LakeError, match="lie outside of what is replaced: a 2016-01-02, b 2016-01-01"):
        replace(it, "network_result", both, region="a", first=DAY, last=DAY)
    assert it.read(spark, "network_result").count() == 0
    assert not list(lake.rglob("*.parquet"))


def test_a_table_without_days_is_replaced_whole(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))

    def rows(region: str, *meters: str) -> DataFrame:
        empty = dict.fromkeys(SCHEMAS["meter_bus"].names)
        found = [empty | {"region": region, "meter_id": meter, "bus": 1, "valid_from": DAY} for meter in meters]
        return spark.createDataFrame(found, SCHEMAS["meter_bus"]).repartition(2)

    for region, meters in (("a", "xyz"), ("b", "u"), ("a", "zw")):
        replace(it, "meter_bus", rows(region, *meters), region=region)
    found = sorted((row.region, row.meter_id) for row in it.read(spark, "meter_bus").collect())
    assert found == [("a", "w"), ("a", "z"), ("b", "u")]
    with pytest.raises(ValueError, match="partitioned by region: give both days or none"):
        replace(it, "meter_bus", rows("a"), region="a", first=DAY, last=DAY)


def test_rows_that_do_not_fit_are_refused_by_column(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    wrong = results("a", DAY).selectExpr("* except (slots, engine)", "'96' as slots")
    with pytest.raises(LakeError) as error:
        replace(it, "network_result", wrong, region="a")
    assert "table network_result" in str(error.value)
    assert "column slots: expected int, actual string" in str(error.value)
    assert "column engine: expected string, but it is missing" in str(error.value)
    assert not it.exists("network_result")


def test_a_table_of_another_shape_on_disk_is_refused(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    results("a", DAY).withColumnRenamed("cos_phi", "cosphi").write.format("delta").save(it.path("network_result"))
    with pytest.raises(LakeError, match="column cos_phi: expected double, but it is missing") as error:
        replace(it, "network_result", results("a", DAY), region="a")
    assert "partitioned by , expected region, date" in str(error.value)
    assert it.path("network_result") in str(error.value)


def test_writers_at_the_same_time_both_succeed(spark: SparkSession, lake: Path, results: Any) -> None:
    it = Lake(str(lake))
    replace(it, "network_result", results("a", DAY), region="a")
    frames = [results("a", DAY, loss_kwh=loss) for loss in (2.0, 3.0)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda df: replace(it, "network_result", df, region="a"), frames))
    assert _losses(spark, it) in ({("a", DAY): [2.0]}, {("a", DAY): [3.0]})
