"""OPTIMIZE and VACUUM of the lake's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from delta import DeltaTable
from pyspark.sql import SparkSession

from lib.errors import GridsinkError
from lib.tables import TABLES, Lake

SHORTEST_HOURS = 24.0
"""A run that is going on reads files of the version it began with: no run may last longer than files are kept."""


def maintain(spark: SparkSession, lake: Lake, names: Sequence[str], retention_hours: float) -> Iterator[dict[str, Any]]:
    """Join small files of every table there is, then delete files that are out of use for `retention_hours`.

    Tables of large rows are not joined: a file is a few of their rows. Raises GridsinkError for an unknown table and a
    retention that a run might outlast.
    """
    if retention_hours < SHORTEST_HOURS:
        raise GridsinkError(
            f"files must be kept for {SHORTEST_HOURS:g} h at least, not {retention_hours:g}",
            "ingest.retention_hours",
            "set it to more than the longest run takes",
        )
    for name in names:
        if name not in TABLES:
            raise GridsinkError(
                f"there is no table {name}", f"known are {', '.join(sorted(TABLES))}", "name one of these"
            )
    wanted = [table for name, table in TABLES.items() if not names or name in names]
    key = "spark.databricks.delta.retentionDurationCheck.enabled"
    before = spark.conf.get(key, None)
    spark.conf.set(key, "false")  # checked above; Delta's own limit is a week
    try:
        for table in wanted:
            if lake.exists(table):
                it = DeltaTable.forPath(spark, lake.path(table))
                joined = made = 0
                if not table.large_rows:
                    metrics = it.optimize().executeCompaction().select("metrics").first()
                    if metrics is not None:
                        joined, made = metrics.metrics.numFilesRemoved, metrics.metrics.numFilesAdded
                it.vacuum(retention_hours)
                yield {"table": f"{table.layer}.{table.name}", "files_joined": joined, "files_made": made}
    finally:
        spark.conf.unset(key) if before is None else spark.conf.set(key, before)
