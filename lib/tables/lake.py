"""One lake: where its Delta tables are, how they are made, read and committed to."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from deltalake import DeltaTable as Snapshot
from deltalake import Schema
from deltalake.exceptions import CommitFailedError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from lib.errors import GridsinkError
from lib.tables.catalog import TABLES
from lib.tables.schema import Table

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_ATTEMPTS = 5

# Set out in full, so that a session's defaults do not decide what a table is. Readers open the files themselves: they
# need the files alone to tell the truth (no deletion vectors, no column mapping).
_PROPERTIES = {
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    "delta.enableRowTracking": "false",
    "delta.enableChangeDataFeed": "false",
    "delta.autoOptimize.autoCompact": "false",
    "delta.autoOptimize.optimizeWrite": "false",
    "delta.checkpointPolicy": "classic",
}
# Delta hands table properties to the Parquet writer. Rows of megabytes: look at the size after each row, not after 100.
_LARGE_ROWS = {
    "parquet.enable.dictionary": "false",
    "parquet.block.size": str(32 * 1024 * 1024),
    "parquet.block.size.row.check.min": "1",
    "parquet.page.size.row.check.min": "1",
}


class LakeError(GridsinkError):
    """A table that is missing, or rows that do not fit it."""


class Lake:
    """The lake under `root`: a folder, or any URI that both Spark and delta-rs open (hdfs://, s3a://).

    Methods take a table's name or, for tables that are not declared beforehand (results of pipelines), the Table.
    """

    def __init__(self, root: str) -> None:
        self.root = str(root).rstrip("/")

    def path(self, table: str | Table) -> str:
        """Where the table is: <root>/<layer>/<name>."""
        table = _table(table)
        return f"{self.root}/{table.layer}/{table.name}"

    def exists(self, table: str | Table) -> bool:
        """Whether the table has been made. Needs no Spark."""
        return Snapshot.is_deltatable(self.path(table))

    def snapshot(self, table: str | Table, version: int | None = None) -> Snapshot:
        """Files and version of the table as delta-rs sees them, without rows. Raises LakeError if there is no table."""
        if not self.exists(table):
            raise _missing(self, table)
        return Snapshot(self.path(table), version=version)

    def read(self, spark: SparkSession, table: str | Table, version: int | None = None) -> DataFrame:
        """The table's rows, of the given version or the latest. Raises LakeError if there is no table."""
        if not self.exists(table):
            raise _missing(self, table)
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.path(table))

    def create(self, table: str | Table) -> None:
        """Make the table if it is absent: columns, comments, partitioning, properties as declared. Needs no Spark."""
        if self.exists(table):
            return
        table = _table(table)
        try:
            Snapshot.create(
                self.path(table), Schema.from_json(table.schema.json()), mode="ignore", description=table.comment,
                partition_by=list(table.partition_by), configuration=_properties(table), raise_if_key_not_exists=False,
            )  # fmt: skip
        except Exception:
            if not self.exists(table):  # else another made it at the same time
                raise

    def commit(self, table: str | Table, write: Callable[[Snapshot], None]) -> int:
        """Call `write` with the table's newest snapshot, to commit to it or not. Returns the table's version after it.

        Needs no Spark. Where the commit meets another writer's it is tried again, at most 5 times.
        """

        def attempt() -> int:
            snapshot = self.snapshot(table)
            write(snapshot)
            snapshot.update_incremental()
            return snapshot.version()

        return _retry(f"writing table {_table(table).name}", attempt)

    def check(self, table: Table) -> None:
        """Refuse to write into a table on disk that is not the one declared."""
        found = self.snapshot(table)
        problems = table.mismatches(StructType.fromJson(json.loads(found.schema().to_json())))
        partitioned = tuple(found.metadata().partition_columns)
        if partitioned != table.partition_by:
            problems.append(f"partitioned by {', '.join(partitioned)}, expected {', '.join(table.partition_by)}")
        if problems:
            raise LakeError(
                f"table {table.name} is not the one this gridsink writes: {'; '.join(problems)}",
                self.path(table),
                "move the table away and build it again",
            )


def _properties(table: Table) -> dict[str, str]:
    """Properties of the Delta table, whoever makes it."""
    return _PROPERTIES | (_LARGE_ROWS if table.large_rows else {})


def _table(table: str | Table) -> Table:
    if isinstance(table, Table):
        return table
    if table not in TABLES:
        raise ValueError(f"no table is called {table}; there are {', '.join(sorted(TABLES))}")
    return TABLES[table]


def _missing(lake: Lake, table: str | Table) -> LakeError:
    return LakeError(
        f"the lake has no table {_table(table).name}",
        lake.path(table),
        "run the job that writes it (inputs: ingest.demo), or set lake.path",
    )


def _retry(what: str, action: Callable[[], _Result]) -> _Result:
    """Run `action` again, a bounded number of times, when another writer's commit came between."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return action()
        except CommitFailedError as e:
            if attempt == _ATTEMPTS:
                raise
            _log.warning("%s met another commit (%s), attempt %d of %d", what, type(e).__name__, attempt, _ATTEMPTS)
            time.sleep(random.uniform(0.5, 1.0) * 2**attempt)
    raise AssertionError("unreachable")
