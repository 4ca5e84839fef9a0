"""What happened when: outages, alarms, switches, telemetry."""

from __future__ import annotations

from datetime import date

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as f

from lib.calculation.frames import read
from lib.calculation.replace import replace
from lib.ingest.silver import Check, Counts, absent, between, number, problem, quarantine, store, versions
from lib.ingest.silver import count as count_fates
from lib.ingest.times import civil_day, instant
from lib.tables import SCHEMAS, Lake

_NO_TIME = "ts is no time of the accepted range"


def alarms(spark: SparkSession, lake: Lake, region: str, zone: str, first: date, last: date, run_id: str) -> Counts:
    rows = read(spark, lake, "alarms", region, first, last)
    checks = [*absent("device_id", "network_id", "code"), Check(f.col("at").isNull(), _NO_TIME)]
    rows = rows.withColumn("problem", problem(checks)).withColumn("ts", f.col("at"))
    rows = versions(rows, ("date", "device_id", "ts", "code"), ("network_id", "severity", "text"))
    return store(
        spark, lake, rows, feed="alarms", table="alarm", region=region, first=first, last=last, run_id=run_id
    )  # fmt: skip


def switches(spark: SparkSession, lake: Lake, region: str, zone: str, first: date, last: date, run_id: str) -> Counts:
    rows = read(spark, lake, "switches", region, first, last)
    closed = f.lower("closed")
    checks = [
        *absent("switch_id", "network_id", "closed"),
        Check(f.col("at").isNull(), _NO_TIME),
        Check(~closed.isin("true", "false", "1", "0"), f.concat(f.lit("closed is neither true nor false: "), closed)),
        number("element", "bigint"),
    ]
    rows = rows.withColumn("problem", problem(checks))
    rows = rows.withColumns(
        {"ts": f.col("at"), "closed": closed.isin("true", "1"), "element": f.col("element").try_cast("bigint")}
    )
    rows = versions(rows, ("date", "switch_id", "ts"), ("network_id", "closed", "element"))
    return store(
        spark, lake, rows, feed="switches", table="switch_state", region=region, first=first, last=last, run_id=run_id
    )  # fmt: skip


def outages(spark: SparkSession, lake: Lake, region: str, zone: str, run_id: str) -> Counts:
    """All outages of the region: a later row may move one to another day."""
    rows = read(spark, lake, "outages", region)
    times = {name: _instant(name, zone) for name in ("start_ts", "end_ts", "reported_ts")}
    checks = [
        *absent("outage_id", "network_id", "start_ts"),
        *(Check(f.col(name).isNotNull() & it.isNull(), f"{name} is no time") for name, it in times.items()),
        Check(times["end_ts"] < times["start_ts"], "the outage ends before it begins"),
    ]
    rows = rows.withColumn("problem", problem(checks)).withColumns(times)
    rows = rows.withColumn("date", civil_day(f.col("start_ts"), f.lit(zone)))
    content = [it for it in SCHEMAS["outage"].names if it not in ("region", "outage_id")]
    rows = versions(rows, ("outage_id",), content).persist()
    counts = count_fates(rows, region, "outages")
    out = rows.where("fate = 'out'").select(*SCHEMAS["outage"].names)
    replace(lake, "outage", out, region=region, run_id=run_id)
    bad = rows.where("fate = 'quarantined'").withColumns(
        {"rows": f.lit(1).cast("bigint"), "date": f.lit(date(1970, 1, 1))}
    )
    undated = date(1970, 1, 1)
    quarantine(spark, lake, "outages", bad if counts.rows_quarantined else None, region, [undated], run_id)
    rows.unpersist()
    return counts


_FACTORS = {
    "v|kv": 1.0, "v|pu": 1.0, "p|mw": 1.0, "p|kw": 1e-3, "q|mvar": 1.0, "q|kvar": 1e-3, "i|ka": 1.0, "i|a": 1e-3,
}  # fmt: skip
_OWN = {"v": "kv", "p": "mw", "q": "mvar", "i": "ka"}
_NAMES = {"v|kv": "kV", "v|pu": "pu", "p": "MW", "q": "Mvar", "i": "kA"}


def telemetry(spark: SparkSession, lake: Lake, region: str, zone: str, first: date, last: date, run_id: str) -> Counts:
    """telemetry_day: values in kV or pu, MW, Mvar, kA; a point keeps what it measures over a day."""
    rows = read(spark, lake, "telemetry", region, first, last)
    own = f.try_element_at(_map(_OWN), f.col("measurement_type"))
    kind = f.concat("measurement_type", f.lit("|"), f.coalesce(f.lower("unit"), own))
    factor = f.try_element_at(_map(_FACTORS), kind)
    checks = [
        *absent("point_id", "network_id", "element_type", "element", "measurement_type", "value"),
        Check(f.col("at").isNull(), _NO_TIME),
        Check(~f.col("measurement_type").isin(*_OWN), "measurement_type is not v, p, q or i"),
        Check(factor.isNull(), f.concat(f.lit("unknown unit: "), f.col("unit"))),
        *(number(name) for name in ("value", "std_dev")),
        number("element", "bigint"),
    ]
    rows = rows.withColumn("problem", problem(checks))
    named = f.coalesce(f.try_element_at(_map(_NAMES), kind), f.try_element_at(_map(_NAMES), f.col("measurement_type")))
    good = f.coalesce(f.col("quality"), f.lit("good")).isin("good", "estimated")
    rows = rows.withColumns(
        {
            "ts": f.col("at"), "unit": named, "valid": good,
            "value": f.col("value").try_cast("double") * factor,
            "std_dev": f.col("std_dev").try_cast("double") * factor,
            "element": f.col("element").try_cast("bigint"),
        }
    )  # fmt: skip
    what = ("network_id", "element_type", "element", "side", "measurement_type", "unit")
    rows = versions(rows, ("date", "point_id", "ts"), (*what, "value", "std_dev", "valid")).persist()
    counts = count_fates(rows, region, "telemetry")
    point = f.sort_array(f.collect_list(f.struct("ts", "value", "std_dev", "valid"))).alias("points")
    ends = [f.max_by(name, "ts").alias(name) for name in what]
    days = rows.where("fate = 'out'").groupBy("region", "date", "point_id").agg(*ends, point)
    series = [f.col(f"points.{name}").alias(name) for name in ("ts", "value", "std_dev", "valid")]
    days = days.select("region", "date", "point_id", *what, *series)
    replace(lake, "telemetry_day", days, region=region, first=first, last=last, run_id=run_id)
    bad = rows.where("fate = 'quarantined'").withColumn("rows", f.lit(1).cast("bigint"))
    quarantine(spark, lake, "telemetry", bad if counts.rows_quarantined else None, region, between(first, last), run_id)
    rows.unpersist()
    return counts


def _map(values: dict[str, float] | dict[str, str]) -> Column:
    return f.create_map(*(f.lit(it) for pair in values.items() for it in pair))


def _instant(name: str, zone: str) -> Column:
    return instant(f.col(name), f.lit(zone), f.lit(None).cast("string"))
