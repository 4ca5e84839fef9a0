from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyspark.sql import types as t

from lib.tables import ARROW, SCHEMAS, TABLES
from lib.tables.quarantine import quarantine_row

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_is_declared_whole(name: str) -> None:
    table = TABLES[name]
    names = table.schema.names
    assert len(set(names)) == len(names)
    assert set(table.key) | set(table.partition_by) <= set(names)
    assert table.partition_by[0] == ("operator" if table.layer == "cache" else "region")  # one owner of the rows
    assert all(column.comment for column in table.columns)
    assert not {"run_id", "created", "updated"} & set(names)


def test_spark_and_arrow_schemas_are_the_same_columns(spark: SparkSession) -> None:
    for name, schema in SCHEMAS.items():
        arrow = spark.createDataFrame([], schema).toArrow().schema
        assert pa.schema(arrow).equals(ARROW[name]), name


def test_mismatches_name_column_expected_and_actual() -> None:
    table = TABLES["network_result"]
    fields = [f for f in table.schema if f.name not in ("slots", "cos_phi")]
    given = t.StructType([*fields, t.StructField("slots", t.StringType()), t.StructField("cosphi", t.DoubleType())])
    assert table.mismatches(given) == [
        "column slots: expected int, actual string",
        "column cos_phi: expected double, but it is missing",
        "column cosphi: unknown to the table, actual double",
    ]
    assert table.mismatches(table.schema) == []


def test_quarantine_rows_fit_their_table_and_depend_on_their_cause_alone() -> None:
    def row() -> dict[str, object]:
        return quarantine_row(
            region="north",
            day=date(2016, 1, 1),
            job="powerflow.solve",
            table="snapshot_tile",
            key={"first_slot": 32, "date": date(2016, 1, 1)},
            reason="4 buses, the network has 5",
            remedy="send the tile again",
        )

    assert tuple(row()) == tuple(SCHEMAS["quarantine"].names)
    assert row() == row()
    assert json.loads(str(row()["key"])) == {"date": "2016-01-01", "first_slot": 32}


def test_a_quarantined_row_needs_a_remedy() -> None:
    with pytest.raises(ValueError, match="needs a reason and a remedy"):
        quarantine_row(region="a", day=date(2016, 1, 1), job="j", table="t", key={}, reason="bad", remedy="")
