"""DataFrames of the files that a table's log names, against Spark's own Delta scan."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lib.calculation.frames import read
from lib.calculation.replace import replace
from lib.tables import ARROW, SCHEMAS, Lake

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DAY = date(2016, 1, 1)
NEXT = DAY + timedelta(days=1)


def outages(spark: SparkSession, region: str, *days: date) -> DataFrame:
    empty = dict.fromkeys(SCHEMAS["outage"].names)
    rows = [empty | {"region": region, "date": day, "outage_id": f"{region} {day}"} for day in days]
    return spark.createDataFrame(rows, SCHEMAS["outage"])


@pytest.mark.parametrize(
    ("region", "plain"),
    [("north", True), ("o'neill 50%", True), ("a=b", True), ("Süd", False), ("a/b", True), ("x[1]*?", True)],
)
def test_rows_of_any_region_are_those_of_the_delta_scan(
    spark: SparkSession, lake: Path, region: str, plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    it = Lake(str(lake))
    for name in (region, "other"):
        replace(it, "outage", outages(spark, name, DAY, NEXT), region=name)
    with caplog.at_level(logging.WARNING):
        found = {span: read(spark, it, "outage", region, *span) for span in ((None, None), (DAY, DAY), (NEXT, None))}
    assert ("does not tell its partition" in caplog.text) is not plain
    for (first, last), rows in found.items():
        scan = it.read(spark, "outage").where(f"date BETWEEN '{first or DAY}' AND '{last or NEXT}'")
        expected = sorted(row for row in scan.collect() if row.region == region)
        assert sorted(rows.collect()) == expected
        assert len(expected) == (2 if first is None else 1)
        assert rows.schema.names == scan.schema.names


def test_what_is_not_there_has_no_rows(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))
    assert read(spark, it, "outage", "north").schema.names == SCHEMAS["outage"].names
    it.create("outage")
    assert read(spark, it, "outage", "north").count() == 0
    replace(it, "outage", outages(spark, "north", DAY), region="north")
    assert read(spark, it, "outage", "south").count() == 0
    assert read(spark, it, "outage", "north", NEXT, NEXT).count() == 0


def test_columns_added_later_are_null_in_older_files(spark: SparkSession, lake: Path) -> None:
    it = Lake(str(lake))
    replace(it, "outage", outages(spark, "north", DAY), region="north")
    schema = ARROW["outage"].append(pa.field("crew", pa.int32()))
    rows = pa.Table.from_pylist([{"region": "north", "date": NEXT, "outage_id": "new", "crew": 7}], schema=schema)
    write_deltalake(it.path("outage"), rows, mode="append", schema_mode="merge")
    found = {row.outage_id: row.crew for row in read(spark, it, "outage", "north").collect()}
    assert found == {f"north {DAY}": None, "new": 7}
