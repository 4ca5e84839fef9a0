"""Times of source systems to instants, many at once. No Spark."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from lib.tables.bronze import UNDATED, Feed
from lib.tables.tiles import day_start

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?")
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})([T ].*)?")
_TICK = timedelta(microseconds=1)
Dated = tuple[datetime | None, date]


def instant(text: str, fold: str, zone: ZoneInfo) -> datetime | None:
    """UTC instant of an ISO 8601 text; without an offset it is civil time of `zone`.

    `fold` "1" names the second of two equal civil times. None for what is no time, or a civil time that does not exist.
    """
    text = text.strip()
    if not _TIME.fullmatch(text):
        return None
    try:
        local = datetime.fromisoformat(text)
    except ValueError:
        return None
    if local.tzinfo is not None:
        return local.astimezone(UTC)
    at = local.replace(tzinfo=zone, fold=int(fold == "1")).astimezone(UTC)
    return at if at.astimezone(zone).replace(tzinfo=None) == local else None


def dated(columns: dict[str, pa.Array], feed: Feed, zone: str, first: date, last: date) -> tuple[pa.Array, pa.Array]:
    """The columns `at` and `date` of bronze. An interval, and what a cumulative register counted, belong to the day
    that they end; the date is UNDATED and the instant null for times that are none, or outside `first` to `last`."""
    civil, early = ZoneInfo(zone), _TICK if feed.name == "readings" else timedelta()

    def of_day(text: str) -> Dated:
        match = _DAY.fullmatch(text.strip())
        try:
            day = date.fromisoformat(match[1]) if match else UNDATED
        except ValueError:
            day = UNDATED
        return (day_start(day, zone), day) if match and first <= day <= last else (None, UNDATED)

    def of_time(text: str) -> Dated:
        text, _, fold = text.partition("\0")
        at = instant(text, fold, civil)
        day = UNDATED if at is None else (at - early).astimezone(civil).date()
        return (at, day) if at is not None and first <= day <= last else (None, UNDATED)

    if feed.dated == "date":
        return _mapped(columns["date"], of_day)
    fold = pc.fill_null(columns["fold"], "") if "fold" in columns else ""
    return _mapped(pc.binary_join_element_wise(columns["ts"], fold, "\0"), of_time)


def _mapped(texts: pa.Array, of: Callable[[str], Any]) -> tuple[pa.Array, pa.Array]:
    """Each distinct text once: the many meters of a file share their times."""
    encoded = texts.dictionary_encode()
    found = [of(text) for text in encoded.dictionary.to_pylist()]
    at = pa.array([it for it, _ in found], pa.timestamp("us", tz="UTC")).take(encoded.indices)
    day = pa.array([it for _, it in found], pa.date32()).take(encoded.indices)
    return at, pc.fill_null(day, pa.scalar(UNDATED, pa.date32()))
