from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as f

from lib.ingest.times import instant

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_texts_to_instants(spark: SparkSession) -> None:
    cases = [
        ("2016-03-27T03:15:00+02:00", None, utc("2016-03-27 01:15")),
        ("2016-03-27T01:15:00Z", None, utc("2016-03-27 01:15")),
        ("2016-03-27 01:15Z", None, utc("2016-03-27 01:15")),
        ("2016-01-01T12:00:00.5", None, utc("2016-01-01 11:00") + 0.5),
        ("2016-07-01 12:00", None, utc("2016-07-01 10:00")),
        ("2016-03-27T02:30:00", None, None),  # does not exist
        ("2016-03-27T03:00:00", None, utc("2016-03-27 01:00")),
        ("2016-10-30T02:30:00", None, utc("2016-10-30 00:30")),
        ("2016-10-30T02:30:00", "0", utc("2016-10-30 00:30")),
        ("2016-10-30T02:30:00", "1", utc("2016-10-30 01:30")),
        ("2016-10-30T02:00:00", "1", utc("2016-10-30 01:00")),
        ("2016-10-30T03:00:00", "1", utc("2016-10-30 02:00")),  # comes once
        ("soon", None, None),
        ("2016-13-01T00:00:00Z", None, None),
        (None, None, None),
    ]
    frame = spark.createDataFrame([(k, *it[:2]) for k, it in enumerate(cases)], "k int, text string, fold string")
    at = instant(f.col("text"), f.lit("Europe/Berlin"), f.col("fold"))
    found = frame.select("k", f.unix_micros(at).alias("us")).orderBy("k").collect()
    assert [None if row.us is None else row.us / 1e6 for row in found] == [it[2] for it in cases]
