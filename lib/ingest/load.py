"""Landing to bronze to silver, region by region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from lib.errors import GridsinkError
from lib.ingest import bronze, demo, events, meter_days, networks, records, tiles
from lib.ingest.bronze import Taken
from lib.ingest.silver import MEND, Counts, quarantine, runs
from lib.ingest.span import affected
from lib.settings import ROOT, Settings
from lib.tables import Lake
from lib.tables.bronze import FEEDS, UNDATED

SOURCES = tuple(dict.fromkeys(feed.source for feed in FEEDS.values()))
_METER_FEEDS = ("readings", "curves", "events")
_RECORDS = ("devices", "customers", "transformers", "networks", "connections")


@dataclass(frozen=True)
class Asked:
    """What a run was asked for. The days named, both included, are made again besides those that new files touch."""

    regions: tuple[str, ...]
    sources: tuple[str, ...]
    first: date | None = None
    last: date | None = None

    @property
    def backfill(self) -> bool:
        """Whether days were named, so that they are made again from all of bronze."""
        return self.first is not None or self.last is not None

    def wants(self, day: date) -> bool:
        """Whether the day is among those named."""
        return day == UNDATED or (self.first or date.min) <= day <= (self.last or date.max)


def folder(settings: Settings) -> Path:
    """The landing folder. Raises GridsinkError if there is none."""
    root = Path(settings.landing.path.removeprefix("file://"))
    root = root if root.is_absolute() else ROOT / root
    if not root.is_dir():
        raise GridsinkError(
            "there is no landing folder", str(root),
            "set landing.path, or write a demo: ./spark-submit.sh ingest.landing",
        )  # fmt: skip
    return root


def chosen(settings: Settings, names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Regions or sources asked for, all if none. Raises GridsinkError for one that is unknown."""
    known = tuple(settings.regions) if kind == "region" else SOURCES
    for name in names:
        if name not in known:
            raise GridsinkError(f"there is no {kind} {name}", f"known are {', '.join(known)}", "name one of these")
    return tuple(names) or known


def load(
    spark: SparkSession, lake: Lake, settings: Settings, asked: Asked, taken: Taken, root: Path, run_id: str
) -> Iterator[Counts]:
    """Silver of all that `taken` touches, or of the days asked for; counts of each region and feed.

    root: the landing folder. Networks and tiles of a region that is the demo lake's are left alone.
    """
    for region in asked.regions:
        zone = settings.regions[region].time_zone

        def days(feeds: Sequence[str], again: bool = asked.backfill, region: str = region) -> set[date]:
            new = set().union(*(taken.touched.get((region, feed), set()) for feed in feeds))
            there = set().union(*(bronze.days(lake, region, feed) for feed in feeds)) if again else set()
            return new | {day for day in there if asked.wants(day)}

        def due(feed: str, region: str = region) -> bool:
            return FEEDS[feed].source in asked.sources and bool(
                taken.touched.get((region, feed)) or (asked.backfill and bronze.days(lake, region, feed))
            )

        if due("customers"):
            yield records.customers(spark, lake, region, run_id)
        if due("transformers"):
            yield records.transformers(spark, lake, region, run_id)
        modelled = not demo.holds(lake, region)
        if due("networks") and modelled:
            yield networks.networks(spark, lake, root, region, run_id)
        if due("connections"):
            yield networks.connections(spark, lake, region, run_id)
        if due("outages"):
            yield events.outages(spark, lake, region, zone, run_id)
        for feed, make in (("alarms", events.alarms), ("switches", events.switches), ("telemetry", events.telemetry)):
            if due(feed):
                total = Counts(region, feed)
                for first, last in runs(days([feed])):
                    total += make(spark, lake, region, zone, first, last, run_id)
                yield total
        changed = any(taken.touched.get((region, feed)) for feed in _RECORDS)
        if "meters" not in asked.sources and not changed:
            continue
        there = set().union(*(bronze.days(lake, region, feed) for feed in _METER_FEEDS))
        wanted = days(_METER_FEEDS, again=asked.backfill or changed)
        wanted = (affected(wanted - {UNDATED}) | wanted) & there
        if wanted or due("devices"):
            yield from meter_days.load(spark, lake, settings.ingest, region, zone, wanted, run_id)
        if modelled and wanted - {UNDATED} and has_network(lake, region):
            yield tiles.load(spark, lake, settings.ingest, region, zone, wanted - {UNDATED}, run_id)


def has_network(lake: Lake, region: str) -> bool:
    """Whether silver holds a network of the region."""
    return lake.exists("network") and bool(lake.snapshot("network").partitions([("region", "=", region)]))


def refused(spark: SparkSession, lake: Lake, taken: Taken, region: str, run_id: str) -> int:
    """Put every refused file of the region, of this run and of those before, into quarantine; returns their number."""
    rows = [
        (it["region"], it["source_file"], it["problem"], it["remedy"]) for it in bronze.ledger(lake) if it["problem"]
    ]
    rows += [(it.region, it.path, it.problem or "", it.remedy or MEND) for it in taken.refused]
    mine = [(path, what, remedy) for name, path, what, remedy in dict.fromkeys(rows) if name == region]
    frame = None
    if mine:
        frame = spark.createDataFrame(mine, "source_file string, reason string, remedy string").select(
            f.lit(UNDATED).alias("date"), "source_file", f.lit(None).cast("bigint").alias("line"),
            f.struct("reason", "remedy").alias("problem"), f.lit(None).cast("bigint").alias("rows"),
        )  # fmt: skip
    quarantine(spark, lake, "landing_file", frame, region, [UNDATED], run_id)
    return sum(it.region == region for it in taken.refused)
