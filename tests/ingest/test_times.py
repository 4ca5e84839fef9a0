from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import functions as f

from lib.ingest.instants import dated
from lib.ingest.times import instant
from lib.tables.bronze import FEEDS, UNDATED

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


CASES = [
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


def test_texts_to_instants(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(k, *it[:2]) for k, it in enumerate(CASES)], "k int, text string, fold string")
    at = instant(f.col("text"), f.lit("Europe/Berlin"), f.col("fold"))
    found = frame.select("k", f.unix_micros(at).alias("us")).orderBy("k").collect()
    assert [None if row.us is None else row.us / 1e6 for row in found] == [it[2] for it in CASES]


def bronze(feed: str, first: date = date(2000, 1, 1), **columns: Any) -> list[tuple[Any, Any]]:
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    at, day = dated(arrays, FEEDS[feed], "Europe/Berlin", first, date(2099, 12, 31))
    return list(zip(at.to_pylist(), day.to_pylist(), strict=True))


def test_texts_to_instants_without_spark() -> None:
    found = bronze("alarms", ts=[it[0] for it in CASES], fold=[it[1] for it in CASES])
    assert [at and at.timestamp() for at, _ in found] == [it[2] for it in CASES]
    assert {day for at, day in found if at is None} == {UNDATED}


def test_a_time_belongs_to_its_civil_day_and_the_end_of_an_interval_to_the_day_before() -> None:
    midnight = ["2016-01-02T00:00:00+01:00", "2016-01-01T23:00Z", "2016-01-02T00:00", "2999-01-01T00:00", "soon", None]
    at = datetime(2016, 1, 1, 23, tzinfo=UTC)
    nothing = [(None, UNDATED)] * 3
    assert bronze("alarms", ts=midnight) == [(at, date(2016, 1, 2))] * 3 + nothing
    assert bronze("readings", ts=midnight) == [(at, date(2016, 1, 1))] * 3 + nothing
    assert bronze("readings", date(2016, 1, 2), ts=midnight) == [(None, UNDATED)] * 6
    days = ["2016-07-05", "2016-07-05 00:00:00", "2016-13-05", "soon", None]
    begin = datetime(2016, 7, 4, 22, tzinfo=UTC)
    assert bronze("curves", date=days) == [(begin, date(2016, 7, 5))] * 2 + nothing
