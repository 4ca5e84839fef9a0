"""Landing files to bronze: new files by digest, their rows as text, appended once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from lib.calculation.parts import run_properties
from lib.ingest import files
from lib.ingest.bronze_files import WRITTEN, Received, append, write
from lib.ingest.files import Landed
from lib.setting_groups import IngestSettings, SourceSettings
from lib.settings import Settings
from lib.tables import ARROW, TABLES, Lake
from lib.tables.bronze import FEEDS, UNDATED, Feed


@dataclass
class Taken:
    """What a run found in the landing folder. rows: by digest; touched: days by (region, feed)."""

    new: list[Landed] = field(default_factory=list)
    refused: list[Landed] = field(default_factory=list)
    known: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    touched: dict[tuple[str, str], set[date]] = field(default_factory=lambda: defaultdict(set))


def take(
    spark: SparkSession, lake: Lake, settings: Settings, root: Path, regions: Sequence[str], sources: Sequence[str],
    run_id: str = "",
) -> Taken:  # fmt: skip
    """Append the rows of files whose content is new. They count as taken once `close` has recorded them."""
    taken = Taken()
    done = {(row["region"], row["feed"], row["digest"]) for row in ledger(lake)}
    found = files.landed(root, regions, sources)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda it: files.file_digest(root / it.path), found))
        fresh = []
        for it, digest in zip(found, digests, strict=True):
            key = (it.region, it.feed, digest)
            if key in done:
                taken.known += 1
            else:
                done.add(key)
                fresh.append(replace(it, digest=digest))
        problems = list(pool.map(lambda it: _problem(root, it, settings.ingest), fresh))
    for it, problem in zip(fresh, problems, strict=True):
        if problem is None:
            taken.new.append(it)
        else:
            taken.refused.append(replace(it, problem=problem[0], remedy=problem[1]))
    for feed in FEEDS.values():
        mine = [it for it in taken.new if it.feed == feed.name]
        if mine:
            _append(spark, lake, settings, root, feed, mine, taken, run_id)
    return taken


def close(lake: Lake, taken: Taken, run_id: str = "") -> None:
    """Record the files, so that no later run takes them again."""
    rows = [
        {
            "region": it.region, "source": it.source, "feed": it.feed, "source_file": it.path, "digest": it.digest,
            "received": it.received, "rows": taken.rows.get(it.digest, 0), "problem": it.problem, "remedy": it.remedy,
        }
        for it in (*taken.new, *taken.refused)
    ]  # fmt: skip
    if rows:
        lake.create("landing_file")
        data, properties = pa.Table.from_pylist(rows, schema=ARROW["landing_file"]), run_properties(run_id)
        lake.commit("landing_file", lambda it: write_deltalake(it, data, mode="append", commit_properties=properties))


def ledger(lake: Lake) -> list[dict[str, Any]]:
    """Files recorded so far."""
    if not lake.exists("landing_file"):
        return []
    return pa.table(lake.snapshot("landing_file").to_pyarrow_table()).to_pylist()


def days(lake: Lake, region: str, feed: str) -> set[date]:
    """Days of which bronze has rows, UNDATED included; of feeds without days UNDATED alone."""
    if not lake.exists(feed):
        return set()
    found = lake.snapshot(feed).partitions([("region", "=", region)])
    return {_day(it.get("date")) for it in found}


def _day(value: Any) -> date:
    return UNDATED if value is None else value if isinstance(value, date) else date.fromisoformat(str(value))


def _problem(root: Path, it: Landed, settings: IngestSettings) -> tuple[str, str] | None:
    if it.problem:
        return it.problem, it.remedy or ""
    return files.problem_of(root / it.path, FEEDS[str(it.feed)], settings.sources.get(it.source, SourceSettings()))


def _append(
    spark: SparkSession, lake: Lake, settings: Settings, root: Path, feed: Feed, landed: Sequence[Landed], taken: Taken,
    run_id: str,
) -> None:  # fmt: skip
    lake.create(feed.name)
    lake.check(TABLES[feed.name])
    # a run that died may have left rows here that no ledger knows
    rows = _rows_of(lake, feed, landed).to_pylist()
    there = {(row["region"], row["digest"]) for row in rows}
    new = [
        Received(
            str(root / it.path), it.path, it.region, settings.regions[it.region].time_zone, it.digest, it.received or ""
        )
        for it in landed
        if (it.region, it.digest) not in there
    ]  # fmt: skip
    source = settings.ingest.sources.get(feed.source, SourceSettings())
    table, first, last = lake.path(feed.name), settings.ingest.first, settings.ingest.last

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for k in batch.column("id").to_pylist():
                for row in write(new[k], feed, source, table, first, last):
                    yield pa.RecordBatch.from_pylist([row], schema=schema)

    if new:
        schema = to_arrow_schema(spark.createDataFrame([], WRITTEN).schema)
        written = [row.asDict() for row in spark.range(0, len(new), 1, len(new)).mapInArrow(make, WRITTEN).collect()]
        append(lake, feed.name, written, run_id)
        rows += written
    for row in rows:
        taken.rows[row["digest"]] = taken.rows.get(row["digest"], 0) + row["rows"]
        taken.touched[row["region"], feed.name].add(row.get("date", UNDATED))


def _rows_of(lake: Lake, feed: Feed, landed: Iterable[Landed]) -> pa.Table:
    """Region, digest, day and number of rows in bronze of these files. Read without Spark: two short columns."""
    landed = list(landed)
    names = ["region", "digest", *(["date"] if feed.dated else [])]
    wanted = ds.field("digest").isin([it.digest for it in landed])
    wanted &= ds.field("region").isin(sorted({it.region for it in landed}))
    rows = lake.snapshot(feed.name).to_pyarrow_dataset().to_table(names, filter=wanted)
    found = rows.group_by(names).aggregate([([], "count_all")])
    return found.rename_columns({"count_all": "rows"})
