"""Meters' readings and curves of bronze to meter_day: checks in Spark, the rules in lib.ingest.meters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from functools import reduce
from operator import or_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from lib.calculation.frames import read
from lib.calculation.replace import replace
from lib.ingest.devices import DEVICES
from lib.ingest.meters import QUANTITIES, day_rows
from lib.ingest.places import PLACED_ROWS, PLACES, placed_rows
from lib.ingest.readings import READINGS, REGISTERS
from lib.ingest.records import device_rows, places
from lib.ingest.silver import CONFLICT, MEND, Check, Counts, absent, between, number, problem, quarantine, runs, store
from lib.ingest.span import Span
from lib.ingest.times import day_begin
from lib.setting_groups import IngestSettings
from lib.tables import SCHEMAS, Lake
from lib.tables.bronze import UNDATED

INTERVAL_S = 900
_PREFIX = {"k": 1.0, "": 1e-3, "m": 1e3}
_UNITS = {
    **{(r, f"{p}{u}"): x for r, u in (("p_kw", "w"), ("q_kvar", "var")) for p, x in _PREFIX.items()},
    **{(r, f"{p}wh"): x for r in REGISTERS if r.endswith("kwh") for p, x in _PREFIX.items()},
    **{(r, f"{p}{u}"): x for r, u in (("u_v", "v"), ("i_a", "a")) for p, x in (("", 1.0), ("k", 1e3))},
}
"""Factor to the register's own unit, by register and unit in small letters."""
_UNKNOWN = "the meter is in no record of customers, transformers, networks or devices"


def load(
    spark: SparkSession, lake: Lake, settings: IngestSettings, region: str, zone: str, days: Iterable[date], run_id: str
) -> Iterator[Counts]:
    """meter_day of these days, of all their readings and curves; counts of devices, then of both feeds together."""
    rows = device_rows(spark, lake, region, zone).persist()
    try:
        yield store(spark, lake, rows, feed="devices", table=None, region=region, run_id=run_id)
        devices = rows.where("fate = 'out'").select(*DEVICES.names).persist()
        total = Counts(region, "readings")
        for first, last in runs(days):
            total += _run(spark, lake, settings, region, zone, first, last, devices, run_id)
        devices.unpersist()
        yield total
    finally:
        rows.unpersist()


def _run(
    spark: SparkSession, lake: Lake, settings: IngestSettings, region: str, zone: str,
    first: date, last: date, devices: DataFrame, run_id: str,
) -> Counts:  # fmt: skip
    span = Span.around(between(first, last), zone, INTERVAL_S)
    dated = first != UNDATED
    begin, end = (span.days[0], span.days[-1]) if dated else (first, last)
    rows = _checked(spark, lake, region, zone, begin, end)
    wanted = f.col("date").between(f.lit(first), f.lit(last))
    refused = rows.where(wanted & f.col("problem").isNotNull()).select("date", "source_file", "line", "problem")
    refused = refused.withColumn("rows", f.lit(1).cast("bigint"))
    if not dated:
        refused = refused.persist()
        number_refused = refused.count()
        quarantine(spark, lake, "readings", refused if number_refused else None, region, [first], run_id)
        refused.unpersist()
        return Counts(region, "readings", number_refused, 0, number_refused)

    tasks = max(1, -(-_size(lake, region, begin, end) // settings.rows_per_task))
    bucket = f.pmod(f.xxhash64("meter_id"), f.lit(tasks)).alias("bucket")
    rules = settings.rules

    def rows_of(readings: pa.Table, records: pa.Table) -> pa.Table:
        readings = readings.select(READINGS.names).cast(READINGS)
        is_place = records["is_place"]
        hung = records.filter(pc.invert(is_place)).select(DEVICES.names).cast(DEVICES)
        places = records.filter(is_place).select(PLACES.names).cast(PLACES)
        return placed_rows(day_rows(readings, hung, span, rules), readings, hung, places, span)

    records = devices.withColumn("is_place", f.lit(False)).unionByName(
        places(spark, lake, region).withColumn("is_place", f.lit(True)), allowMissingColumns=True
    )
    good = rows.where("problem IS NULL").select(*READINGS.names, bucket).groupBy("bucket")
    made = good.cogroup(records.select("*", bucket).groupBy("bucket")).applyInArrow(rows_of, _spark_schema(PLACED_ROWS))
    made = made.persist()
    try:
        known = made.where("kind = 'day' AND known").withColumn("region", f.lit(region))
        some = reduce(or_, (f.col(name).isNotNull() for name in (*QUANTITIES, "last_gasps")))
        sums = [f.sum(name).alias(name) for name in ("readings", "duplicates", "superseded")]
        by_day = known.groupBy("date").agg(f.max(some).alias("some"), *sums).collect()
        # A day of which nothing came but the register at its end is of use to the next day alone.
        known = known.where(f.col("date").isin([row.date for row in by_day if row.some]))
        known = known.coalesce(spark.sparkContext.defaultParallelism)  # a file of each for a day
        replace(
            lake, "meter_day", known.select(*SCHEMAS["meter_day"].names), region=region, first=first, last=last,
            run_id=run_id,
        )  # fmt: skip
        bad = refused.unionByName(_not_used(made)).persist()
        out, duplicates, superseded = (
            sum(row[it] for row in by_day) for it in ("readings", "duplicates", "superseded")
        )
        lost = bad.agg(f.coalesce(f.sum("rows"), f.lit(0))).collect()[0][0]
        quarantine(spark, lake, "readings", bad if lost else None, region, between(first, last), run_id)
        total = _count(rows.where(wanted))
        bad.unpersist()
        return Counts(region, "readings", total, out, lost, duplicates, superseded)
    finally:
        made.unpersist()


def _count(rows: DataFrame) -> int:
    """Counted apart from what became of the rows, so that the sum is a check."""
    return rows.select("line").count()


def _size(lake: Lake, region: str, first: date, last: date) -> int:
    """Readings of these days, of a curve one for each quarter-hour, as the tables' logs say."""
    size = 0
    for feed, weight in (("readings", 1), ("curves", 96)):
        if lake.exists(feed):
            actions = pa.table(lake.snapshot(feed).get_add_actions(flatten=True)).to_pylist()
            for it in actions:
                if it["partition.region"] == region and first <= date.fromisoformat(str(it["partition.date"])) <= last:
                    size += weight * (it["num_records"] or 0)
    return size


def _checked(spark: SparkSession, lake: Lake, region: str, zone: str, first: date, last: date) -> DataFrame:
    """Readings, curves and events of the days as READINGS, with `problem` where a row is refused."""
    parts = []
    for feed, shape in (("readings", _readings), ("curves", _curves), ("events", _events)):
        rows = read(spark, lake, feed, region, first, last)
        parts.append(shape(rows, zone).select(*READINGS.names, "problem"))
    return parts[0].unionByName(parts[1]).unionByName(parts[2])


def _readings(rows: DataFrame, zone: str) -> DataFrame:
    value = f.col("value").try_cast("double")
    checks = [
        *absent("meter_id", "register"),
        Check(f.col("at").isNull(), f.concat(f.lit("ts is no time of the accepted range: "), _shown("ts"))),
        *_register_checks(),
        number("value"),
        Check(f.unix_micros("at") % (INTERVAL_S * 1_000_000) != 0, "ts is not the end of a quarter-hour"),
    ]
    return rows.withColumn("problem", problem(checks)).withColumns(
        {
            "phase": _phase(),
            "end_slot": (f.unix_seconds("at") / INTERVAL_S).cast("bigint"),
            "values": f.array(value * _scale()),
            "quality": f.array("quality"),
        }
    )


def _curves(rows: DataFrame, zone: str) -> DataFrame:
    rows = rows.withColumn("parsed", f.from_json("values", "array<double>"))  # once, though used often
    values = f.col("parsed")
    begin = day_begin(f.col("date"), f.lit(zone))
    slots = (f.unix_seconds(day_begin(f.date_add("date", 1), f.lit(zone))) - f.unix_seconds(begin)) / INTERVAL_S
    wrong = f.concat(f.lit("values has "), f.size(values), f.lit(" elements, the day has "), slots.cast("int"))
    checks = [
        *absent("meter_id", "register", "values"),
        Check(f.col("at").isNull(), f.concat(f.lit("date is no day of the accepted range: "), _shown("date_text"))),
        *_register_checks(),
        Check(values.isNull(), "values is no list of numbers"),
        Check(f.size(values) != slots, wrong),
    ]
    listed = f.from_json("quality", "array<string>")
    scale = _scale()
    return rows.withColumn("problem", problem(checks)).withColumns(
        {
            "phase": _phase(),
            "end_slot": (f.unix_seconds(begin) / INTERVAL_S + 1).cast("bigint"),
            "quality": f.when(f.col("quality").startswith("["), listed).otherwise(f.array("quality")),
            "values": f.transform(values, lambda it: it * scale),
        }
    )


def _events(rows: DataFrame, zone: str) -> DataFrame:
    """Events hold no value; as rows they say that the meter is there. Their instants stand in end_slot."""
    checks = [
        *absent("meter_id", "event"),
        Check(f.col("at").isNull(), f.concat(f.lit("ts is no time of the accepted range: "), _shown("ts"))),
    ]
    empty = f.array().cast("array<double>")
    return rows.withColumn("problem", problem(checks)).withColumns(
        {
            "register": f.lit("event"),
            "phase": f.col("event"),
            "end_slot": f.unix_micros("at"),
            "values": empty,
            "quality": f.array().cast("array<string>"),
        }
    )


def _register_checks() -> list[Check]:
    phase = _phase()
    per_phase = f.col("register").isin("u_v", "i_a")
    bad = f.when(per_phase, ~phase.isin("A", "B", "C")).when(f.col("register").endswith("total_kwh"), phase != "ABC")
    bad = bad.otherwise(~phase.isin("A", "B", "C", "ABC"))
    interval = f.col("interval_s").isNotNull() & (
        f.coalesce(f.col("interval_s").try_cast("int"), f.lit(0)) != INTERVAL_S
    )
    return [
        Check(~f.col("register").isin(*REGISTERS), f.concat(f.lit("unknown register: "), f.col("register"))),
        Check(bad, f.concat(f.lit("the register has no phase "), phase)),
        Check(_scale().isNull(), f.concat(f.lit("unknown unit: "), f.col("unit"))),
        Check(interval, f.concat(f.lit("interval_s is not 900: "), f.col("interval_s"))),
    ]


def _phase() -> Column:
    return f.coalesce(f.col("phase"), f.lit("ABC"))


def _scale() -> Column:
    """Factor to the register's own unit; null for a unit that it does not have."""
    factors = f.create_map(*(f.lit(it) for (r, u), x in _UNITS.items() for it in (f"{r}|{u}", x)))
    found = f.try_element_at(factors, f.concat("register", f.lit("|"), f.lower("unit")))
    return f.when(f.col("unit").isNull(), f.lit(1.0)).otherwise(found)


def _shown(name: str) -> Column:
    return f.coalesce(f.col(name), f.lit("nothing"))


def _not_used(made: DataFrame) -> DataFrame:
    """Conflicting rows, and all rows of meters that nobody knows, as date, source_file, line, problem, rows."""
    conflict = f.col("kind") == "rejected"
    reason = f.when(conflict, f.lit(CONFLICT)).otherwise(f.concat(f.lit(f"{_UNKNOWN}: "), f.col("meter_id")))
    remedy = f.when(conflict, f.lit(MEND)).otherwise(f.lit("add it to these records, or mend its meter_id"))
    lost = f.when(conflict, f.col("rejected")).otherwise(f.expr("readings + duplicates + superseded"))
    return made.where(conflict | ~f.col("known")).select(
        "date", "source_file", "line", f.struct(reason.alias("reason"), remedy.alias("remedy")).alias("problem"),
        lost.alias("rows"),
    )  # fmt: skip


def _spark_schema(schema: pa.Schema) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)
