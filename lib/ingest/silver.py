"""From bronze to silver: which version of a row holds, what is refused and why, and that every row is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f

from lib.calculation.parts import commit_quarantine
from lib.calculation.replace import replace
from lib.tables import SCHEMAS, Lake
from lib.tables.bronze import UNDATED
from lib.tables.quarantine import quarantine_row

JOB = "ingest.load"
ORDER = ("received", "source_file", "line")
MEND = "mend it at the source and send it again"
CONFLICT = "a later row of the same file says otherwise"


@dataclass
class Counts:
    """Rows of one feed: rows_in = rows_out + rows_quarantined + rows_duplicate + rows_superseded."""

    region: str
    feed: str
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    rows_duplicate: int = 0
    rows_superseded: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.region, self.feed, self.rows_in + other.rows_in, self.rows_out + other.rows_out,
            self.rows_quarantined + other.rows_quarantined, self.rows_duplicate + other.rows_duplicate,
            self.rows_superseded + other.rows_superseded,
        )  # fmt: skip


@dataclass(frozen=True)
class Check:
    """Rows for which `bad` holds are refused; `reason` may be a column."""

    bad: Column
    reason: str | Column
    remedy: str = MEND


def problem(checks: Iterable[Check]) -> Column:
    """Struct (reason, remedy) of the first check that a row fails; null if it passes all."""
    result: Column = f.lit(None).cast("struct<reason:string,remedy:string>")
    for check in reversed([Check(f.col("damage").isNotNull(), f.col("damage")), *checks]):
        reason = f.lit(check.reason) if isinstance(check.reason, str) else check.reason
        found = f.struct(reason.alias("reason"), f.lit(check.remedy).alias("remedy"))
        result = f.when(check.bad, found).otherwise(result)
    return result


def absent(*names: str) -> list[Check]:
    """Columns that must have a value."""
    return [Check(f.col(name).isNull(), f"{name} is empty") for name in names]


def number(name: str, kind: str = "double") -> Check:
    """A column that must be a finite number where it has a value."""
    value = f.col(name).try_cast(kind)
    bad = value.isNull() | (f.abs(value) == float("inf")) | f.isnan(value.cast("double"))
    return Check(f.col(name).isNotNull() & bad, f.concat(f.lit(f"{name} is no number: "), f.col(name)))


def versions(rows: DataFrame, key: Sequence[str], content: Sequence[str]) -> DataFrame:
    """With column `fate`: out, duplicate, superseded (by a later file), or quarantined with a `problem`."""
    refused = rows.problem.isNotNull()
    same_key = Window.partitionBy(refused, *key).orderBy(*(f.col(name).desc() for name in ORDER))
    latest = same_key.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    holds = f.first(f.struct("source_file", f.struct(*content).alias("content"))).over(latest)
    rows = rows.withColumns({"holds": holds, "rank": f.row_number().over(same_key)})
    fate = (
        f.when(f.col("problem").isNotNull(), "quarantined")
        .when(f.col("rank") == 1, "out")
        .when(f.struct(*content).eqNullSafe(f.col("holds.content")), "duplicate")
        .when(f.col("source_file") == f.col("holds.source_file"), "quarantined")
        .otherwise("superseded")
    )
    told = f.struct(f.lit(CONFLICT).alias("reason"), f.lit(MEND).alias("remedy"))
    rows = rows.withColumn("fate", fate)
    conflict = (f.col("fate") == "quarantined") & f.col("problem").isNull()
    return rows.withColumn("problem", f.when(conflict, told).otherwise(f.col("problem"))).drop("holds", "rank")


def count(rows: DataFrame, region: str, feed: str) -> Counts:
    """Counts of rows with `fate`."""
    found = {row.fate: row["count"] for row in rows.groupBy("fate").count().collect()}
    return Counts(
        region, feed, sum(found.values()), found.get("out", 0), found.get("quarantined", 0),
        found.get("duplicate", 0), found.get("superseded", 0),
    )  # fmt: skip


def quarantine(
    spark: SparkSession, lake: Lake, feed: str, rows: DataFrame | None, region: str, days: Sequence[date], run_id: str
) -> None:
    """Replace the feed's quarantine of these days. rows: date, source_file, line, problem, rows; None: there are none.

    Rows of one file, day and reason are one pointer, with the first line and their number.
    """
    found = []
    if rows is not None:
        grouped = rows.groupBy("date", "source_file", "problem").agg(
            f.min("line").alias("line"), f.sum("rows").alias("rows")
        )
        found = [
            quarantine_row(
                region=region, day=row.date, job=f"{JOB}.{feed}", table=feed, reason=row.problem.reason,
                remedy=row.problem.remedy, key={"file": row.source_file, "line": row.line, "rows": row.rows},
            )
            for row in grouped.toLocalIterator()
        ]  # fmt: skip
        lake.create("quarantine")
    if lake.exists("quarantine"):
        commit_quarantine(lake, found, job=f"{JOB}.{feed}", regions=[region], days=days, run_id=run_id)


def store(
    spark: SparkSession,
    lake: Lake,
    rows: DataFrame,
    *,
    feed: str,
    table: str | None,
    region: str,
    first: date = UNDATED,
    last: date = UNDATED,
    run_id: str = "",
) -> Counts:
    """Write rows with `fate`: those that hold to `table` (if any), the refused ones to quarantine; count all."""
    rows = rows.persist()
    try:
        counts = count(rows, region, feed)
        if table is not None:
            out = rows.where("fate = 'out'").select(*SCHEMAS[table].names)
            dated = "date" in SCHEMAS[table].names
            replace(
                lake, table, out, region=region, first=first if dated else None, last=last if dated else None,
                run_id=run_id,
            )  # fmt: skip
        bad = rows.where("fate = 'quarantined'").withColumn("rows", f.lit(1).cast("bigint"))
        if "date" not in bad.columns:
            bad = bad.withColumn("date", f.lit(UNDATED))
        quarantine(spark, lake, feed, bad if counts.rows_quarantined else None, region, between(first, last), run_id)
        return counts
    finally:
        rows.unpersist()


def runs(days: Iterable[date]) -> list[tuple[date, date]]:
    """Runs of consecutive days within a month, first and last of each."""
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and day - found[-1][1] == timedelta(days=1) and day.month == found[-1][0].month:
            found[-1] = found[-1][0], day
        else:
            found.append((day, day))
    return found


def between(first: date, last: date) -> list[date]:
    """The days from `first` to `last`, both included."""
    return [date.fromordinal(k) for k in range(first.toordinal(), last.toordinal() + 1)]
