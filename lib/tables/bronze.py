"""Bronze: what the source systems sent, as received, append-only: one table per feed, every value as text.

A value's text is the source's own; what it means is decided on the way to silver, and can be decided again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from lib.tables.schema import REGION, Column, Table

UNDATED = date(1970, 1, 1)
"""`date` of rows whose time cannot be read or lies outside the accepted range."""
PERSONAL = ("name", "address", "phone")
"""Columns of persons, which no calculation needs: not even bronze holds them."""


@dataclass(frozen=True)
class Feed:
    """What a kind of file holds (docs/sources.md). `dated` names the column that gives the row its civil day."""

    name: str
    source: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    key: tuple[str, ...]
    dated: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


FEEDS = {
    feed.name: feed
    for feed in (
        Feed(
            "readings", "meters", ("meter_id", "ts", "register", "value"),
            ("phase", "unit", "quality", "interval_s", "fold"), ("meter_id", "register", "phase", "ts"), "ts",
        ),
        Feed(
            "curves", "meters", ("meter_id", "date", "register", "values"),
            ("phase", "unit", "quality", "interval_s"), ("meter_id", "date", "register", "phase"), "date",
        ),
        Feed(
            "devices", "meters", ("meter_id", "device_id", "valid_from"),
            (
                "valid_to", "ct_ratio", "pt_ratio", "register_digits", "start_import_total_kwh",
                "start_export_total_kwh", "end_import_total_kwh", "end_export_total_kwh", "use",
            ),
            ("meter_id", "valid_from"),
        ),
        Feed("events", "meters", ("meter_id", "ts", "event"), ("fold",), ("meter_id", "ts", "event"), "ts"),
        Feed(
            "customers", "customers", ("customer_id", "meter_id", "valid_from"),
            ("transformer_id", "phase", "tariff", "valid_to"), ("customer_id", "meter_id", "valid_from"),
        ),
        Feed(
            "transformers", "assets", ("transformer_id", "network_id", "s_rated_kva"),
            ("gate_meter_id", "longitude", "latitude", "element", "area_type"), ("transformer_id",),
        ),
        Feed(
            "connections", "assets", ("meter_id", "network_id", "bus", "valid_from"), ("valid_to",),
            ("meter_id", "valid_from"),
        ),
        Feed(
            "networks", "assets", ("network_id", "valid_from", "format", "file"), ("valid_to", "gate_meter_id"),
            ("network_id", "valid_from"),
        ),
        Feed(
            "telemetry", "telemetry",
            ("point_id", "network_id", "element_type", "element", "measurement_type", "ts", "value"),
            ("side", "unit", "std_dev", "quality", "fold"), ("point_id", "ts"), "ts",
        ),
        Feed(
            "switches", "switches", ("switch_id", "network_id", "ts", "closed"), ("element", "fold"),
            ("switch_id", "ts"), "ts",
        ),
        Feed(
            "alarms", "alarms", ("device_id", "network_id", "ts", "code"), ("severity", "text", "fold"),
            ("device_id", "ts", "code"), "ts",
        ),
        Feed(
            "outages", "outages", ("outage_id", "network_id", "start_ts"),
            ("transformer_id", "end_ts", "reported_ts", "cause"), ("outage_id",),
        ),
    )
}  # fmt: skip
"""Feeds by name."""

RECEIVED = (
    Column("source_file", "string", "landing file, relative to the landing folder"),
    Column("digest", "string", "BLAKE3 of the file, hexadecimal"),
    Column("received", "string", "UTC time at which the source system delivered the file, as in its name"),
    Column("line", "bigint", "row of the file, from 1, header not counted"),
    Column("damage", "string", "why the row cannot be taken apart into columns; null if it can"),
)
_DATED = (
    Column("date", "date", "civil day of the row's time; 1970-01-01 where it has none in the accepted range"),
    Column("at", "timestamp", "UTC instant of the row's time; null where it has none in the accepted range"),
)
EXTRA = Column("extra", "string", "columns that docs/sources.md does not name: JSON; null if none")


def _table(feed: Feed) -> Table:
    texts = tuple(Column(f"{name}_text" if name == "date" else name, "string", "as received") for name in feed.columns)
    return Table(
        layer="bronze",
        name=feed.name,
        comment=f"{feed.source}: rows of {feed.name} files as received",
        key=("region", "digest", "line"),
        partition_by=("region", "date") if feed.dated else ("region",),
        columns=(REGION, *(_DATED if feed.dated else ()), *texts, EXTRA, *RECEIVED),
    )


LANDING_FILE = Table(
    layer="bronze",
    name="landing_file",
    comment="files that were taken or refused; a row here says that everything made of the file is written",
    key=("region", "source_file", "digest"),
    partition_by=("region",),
    columns=(
        REGION,
        Column("source", "string", "source system"),
        Column("feed", "string", "kind of file; null if its name says none"),
        *RECEIVED[:3],
        Column("rows", "bigint", "rows in bronze"),
        Column("problem", "string", "why the file was refused; null if it was taken"),
        Column("remedy", "string", "what to do about it"),
    ),
)

TABLES = (LANDING_FILE, *(_table(feed) for feed in FEEDS.values()))
