"""DataFrames of tables' rows, read from the files that the Delta log names.

Spark's own Delta scan gives the same rows, but makes a snapshot of the log by a job of its own for each table, has no
locality, and costs seconds at a session's first table. It is used where files alone do not tell the truth.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from datetime import date

from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from lib.calculation.located import File, Selection, located_files, not_located
from lib.tables import SCHEMAS, Lake

_log = logging.getLogger(__name__)
_GLOB = set("[]{}*?\\")  # Spark would take a path with one of these for a pattern


def read(
    spark: SparkSession, lake: Lake, table: str, region: str, first: date | None = None, last: date | None = None
) -> DataFrame:
    """The region's rows of the days `first` to `last`, both included, open if None; none where there is no table.

    Days are for tables that are partitioned by date.
    """
    if not lake.exists(table):
        return spark.createDataFrame([], SCHEMAS[table])
    snapshot = lake.snapshot(table)
    wanted = Selection((region,), first, last)
    files = [
        file
        for name, day, file in located_files(snapshot)
        if name == region and (day is None or wanted.wants(region, day))
    ]
    rows = of_files(spark, lake, table, snapshot, files).where(F.col("region") == region)
    if first is not None:
        rows = rows.where(F.col("date") >= F.lit(first))
    if last is not None:
        rows = rows.where(F.col("date") <= F.lit(last))
    return rows


def of_files(spark: SparkSession, lake: Lake, table: str, snapshot: DeltaTable, files: Iterable[File]) -> DataFrame:
    """The rows of these files of the snapshot; where they cannot be read by themselves, all rows of the snapshot."""
    files = list(files)
    reason = not_located(snapshot, table) or _misplaced(snapshot, files)
    if reason:
        _log.warning("%s: reading it through Spark's Delta scan", reason)
        return lake.read(spark, table, snapshot.version())
    schema = StructType.fromJson(json.loads(snapshot.schema().to_json()))
    if not files:
        return spark.createDataFrame([], schema)
    root = lake.path(table)
    rows = spark.read.schema(schema).option("basePath", root).parquet(*(f"{root}/{file.path}" for file in files))
    return rows.select(*schema.names)  # else the partition's come last


def _misplaced(snapshot: DeltaTable, files: Iterable[File]) -> str | None:
    """Why Spark, which takes a partition's values from the names of folders, would not take those of the log."""
    names = snapshot.metadata().partition_columns
    values = {file.path: [region, *([str(day)] if day else [])] for region, day, file in located_files(snapshot)}
    for file in files:
        folders = [it.partition("=") for it in file.path.split("/")[:-1]]
        told = [_unescaped(value) for _, _, value in folders]
        if [name for name, _, _ in folders] != names or told != values.get(file.path) or _GLOB & set(file.path):
            return f"the folder of {file.path} does not tell its partition"
    return None


def _unescaped(text: str) -> str:
    """As Spark reads it: each escaped byte is a character."""
    return re.sub("%([0-9A-Fa-f]{2})", lambda it: chr(int(it[1], 16)), text)
