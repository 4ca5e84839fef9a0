"""Records that hold for a time: customers' connections, transformers, devices."""

from __future__ import annotations

from datetime import date

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from lib.calculation.frames import read
from lib.ingest.devices import DEVICES
from lib.ingest.silver import Check, Counts, absent, number, problem, store, versions
from lib.ingest.times import instant
from lib.tables import SCHEMAS, Lake

_ALWAYS = date(1970, 1, 1)


def customers(spark: SparkSession, lake: Lake, region: str, run_id: str) -> Counts:
    """meter_connection of the region."""
    rows = read(spark, lake, "customers", region)
    checks = [
        *absent("customer_id", "meter_id", "valid_from"),
        _phase(),
        date_check("valid_from"),
        date_check("valid_to"),
    ]
    rows = rows.withColumns({"problem": problem(checks), **validity()})
    # silver has one row per meter and begin, whoever the customer is
    rows = versions(rows, ("meter_id", "valid_from"), ("customer_id", "transformer_id", "phase", "tariff", "valid_to"))
    return store(spark, lake, rows, feed="customers", table="meter_connection", region=region, run_id=run_id)


def transformers(spark: SparkSession, lake: Lake, region: str, run_id: str) -> Counts:
    """transformer of the region; assets have no validity, so a row holds for all days."""
    rows = read(spark, lake, "transformers", region)
    numbers = ("s_rated_kva", "longitude", "latitude")
    checks = [
        *absent("transformer_id", "network_id", "s_rated_kva"),
        *(number(name) for name in numbers),
        number("element", "bigint"),
        Check(f.col("s_rated_kva").try_cast("double") <= 0, "s_rated_kva is not above 0"),
    ]
    rows = rows.withColumn("problem", problem(checks))
    rows = rows.withColumns({name: f.col(name).try_cast("double") for name in numbers})
    rows = rows.withColumns(
        {
            "element": f.col("element").try_cast("bigint"),
            "valid_from": f.lit(_ALWAYS),
            "valid_to": f.lit(None).cast("date"),
        }
    )
    content = [name for name in SCHEMAS["transformer"].names if name not in ("region", "transformer_id")]
    rows = versions(rows, ("transformer_id",), content)
    return store(spark, lake, rows, feed="transformers", table="transformer", region=region, run_id=run_id)


def device_rows(spark: SparkSession, lake: Lake, region: str, zone: str) -> DataFrame:
    """Devices' rows with `fate`, and the columns of devices.DEVICES."""
    rows = read(spark, lake, "devices", region)
    numbers = [it.name for it in DEVICES if it.type == "double"]
    none = f.lit(None).cast("string")
    begin, end = (instant(f.col(name), f.lit(zone), none) for name in ("valid_from", "valid_to"))
    ratio = [f.col(name).try_cast("double") <= 0 for name in ("ct_ratio", "pt_ratio")]
    checks = [
        *absent("meter_id", "device_id"),
        Check(begin.isNull(), "valid_from is no time"),
        Check(f.col("valid_to").isNotNull() & end.isNull(), "valid_to is no time"),
        *(number(name) for name in numbers),
        Check(f.coalesce(ratio[0], f.lit(False)) | f.coalesce(ratio[1], f.lit(False)), "a ratio is not above 0"),
    ]
    rows = rows.withColumn("problem", problem(checks))
    rows = rows.withColumns(
        {"from_us": f.unix_micros(begin), "to_us": f.unix_micros(end)}
        | {name: f.col(name).try_cast("double") for name in numbers}
    )
    content = [name for name in DEVICES.names if name not in ("meter_id", "from_us")]
    return versions(rows, ("meter_id", "from_us"), content)


def places(spark: SparkSession, lake: Lake, region: str) -> DataFrame:
    """Where meters are recorded: meter_id, network_id, transformer_id, is_gate, phase, valid_from, valid_to."""
    none = f.lit(None)
    of_transformer = read(spark, lake, "transformer", region)
    # meters at medium voltage are in no transformer's area: the bus they hang at tells the network
    last = f.max_by("network_id", f.struct("received", "source_file", "line")).alias("of_bus")
    of_bus = read(spark, lake, "connections", region).where("damage IS NULL").groupBy("meter_id").agg(last)
    found = (
        read(spark, lake, "meter_connection", region)
        .select("meter_id", "transformer_id", "phase", "valid_from", "valid_to")
        .join(of_transformer.select("transformer_id", "network_id"), "transformer_id", "left")
        .join(of_bus, "meter_id", "left")
        .withColumn("network_id", f.coalesce("network_id", "of_bus"))
        .drop("of_bus")
        .withColumn("is_gate", f.lit(False))
    )
    gates = of_transformer.where("gate_meter_id IS NOT NULL").select(
        f.col("gate_meter_id").alias("meter_id"), "transformer_id", "network_id", f.lit("ABC").alias("phase"),
        "valid_from", "valid_to", f.lit(True).alias("is_gate"),
    )  # fmt: skip
    infeeds = (
        read(spark, lake, "networks", region)
        .where("gate_meter_id IS NOT NULL")
        .select(
            f.col("gate_meter_id").alias("meter_id"),
            none.cast("string").alias("transformer_id"),
            "network_id",
            f.lit("ABC").alias("phase"),
            f.col("valid_from").try_cast("date").alias("valid_from"),
            f.col("valid_to").try_cast("date").alias("valid_to"),
            f.lit(True).alias("is_gate"),
        )
    )
    return found.unionByName(gates).unionByName(infeeds)


def date_check(name: str) -> Check:
    """A column that must be a date where it has a value."""
    bad = f.col(name).isNotNull() & f.col(name).try_cast("date").isNull()
    return Check(bad, f.concat(f.lit(f"{name} is no date: "), f.col(name)))


def _phase() -> Check:
    return Check(f.col("phase").isNotNull() & ~f.col("phase").isin("A", "B", "C", "ABC"), "phase is not A, B, C or ABC")


def validity() -> dict[str, Column]:
    """valid_from and valid_to as dates."""
    return {name: f.col(name).try_cast("date") for name in ("valid_from", "valid_to")}
