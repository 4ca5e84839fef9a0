"""DataFrames of tables' rows, read from the files that the Delta log names.

Spark's own Delta scan gives the same rows, but makes a snapshot of the log by a job of its own for each table, has no
locality, and costs seconds at a session's first table. It is used where files alone do not tell the truth.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import date

from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from lib.calculation.located import File, located_files, not_located
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
    files = [
        file
        for name, day, file in located_files(snapshot)
        if name == region
        and (day is None or ((first is None or day >= first) and (last is None or day <= last)))
    ]  # fmt: skip
    rows = of_files(spark, lake, table, snapshot, files).where(F.col("region") == region)
    for day, within in ((first, F.col("date").__ge__), (last, F.col("date").__le__)) if first or last else ():
        rows = rows if day is None else rows.where(within(F.lit(day)))
    return rows


def of_files(
    spark: SparkSession, lake: Lake, table: str, snapshot: DeltaTable, files: Iterable[File]
) -> DataFrame:  # fmt: skip
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
    return spark.read.schema(schema).option("basePath", root).parquet(*(f"{root}/{file.path}" for file in files))


def _misplaced(snapshot: DeltaTable, files: Iterable[File]) -> str | None:
    """Why paths do not tell what the log says: the values of a file's partition, which Spark takes from its folders."""
    names = snapshot.metadata().partition_columns
    for file in files:
        folders = file.path.split("/")[:-1]
        if [it.partition("=")[0] for it in folders] != names or _GLOB & set(file.path):
            return f"file {file.path} does not lie in a folder of its partition"
    return None
