"""Times of source systems to instants, as Spark columns. The session's time zone must be UTC."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as f

_NO_SECONDS = r"([T ]\d{2}:\d{2})(Z|[+-]\d{2}:\d{2})?$"
_OFFSET = r"^.{11,}(Z|[+-]\d{2}:\d{2})$"


def instant(text: Column, zone: Column, fold: Column) -> Column:
    """UTC instant of an ISO 8601 text; without an offset it is civil time of `zone`.

    `fold` "1" names the second of two equal civil times. Null for what is no time, or a civil time that does not exist.
    """
    text = f.regexp_replace(text, _NO_SECONDS, "$1:00$2")  # Spark takes no offset after minutes
    local = text.try_cast("timestamp_ntz").cast("timestamp")
    first = f.to_utc_timestamp(local, zone)
    second = first + f.expr("INTERVAL 1 HOUR")
    chosen = f.when((fold == "1") & (f.from_utc_timestamp(second, zone) == local), second).otherwise(first)
    civil = f.when(f.from_utc_timestamp(first, zone) == local, chosen)
    return f.when(text.rlike(_OFFSET), text.try_cast("timestamp")).otherwise(civil)


def civil_day(at: Column, zone: Column) -> Column:
    """The civil day in `zone` of an instant."""
    return f.to_date(f.from_utc_timestamp(at, zone))


def day_begin(day: Column, zone: Column) -> Column:
    """UTC instant at which a civil day begins."""
    return f.to_utc_timestamp(day.cast("timestamp"), zone)
