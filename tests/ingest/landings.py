"""Small landings written by hand, and the job that loads them, in the tests' process."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import DeltaTable

from jobs.ingest import load
from lib.job import JobContext, JobResult
from lib.settings import Settings
from lib.settings import load as load_settings
from lib.tables import ARROW, Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REGION = "north"
ZONE = "Europe/Berlin"


def settings_of(root: Path, *overrides: str) -> Settings:
    """Settings of one region in Berlin time, lake and landing below `root`."""
    region = f"regions.{REGION}={{simbench_code: none, time_zone: {ZONE}}}"
    paths = [f"lake.path={root}/lake", f"landing.path={root}/landing", "spark.master=local[2]"]
    return load_settings([*paths, region, *overrides], environment={})


def run_load(spark: SparkSession, root: Path, *overrides: str, **options: Any) -> tuple[JobResult, JobContext]:
    """Runs ingest.load on <root>/landing into <root>/lake."""
    options = {"regions": (REGION,)} | options
    context = JobContext("ingest.load", settings_of(root, *overrides), options, "test-run", root / "run")
    context.__dict__["spark"] = spark
    return load.run(context), context


def put(root: Path, source: str, name: str, rows: Sequence[dict[str, Any]] | bytes) -> Path:
    """Writes a landing file; its name says the format."""
    path = root / "landing" / REGION / source / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rows if isinstance(rows, bytes) else encoded(name, rows))
    return path


def encoded(name: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a file of this name holds them."""
    if ".csv" in name:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    elif name.endswith(".parquet"):
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink)
        return sink.getvalue().to_pybytes()
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(data) if name.endswith(".gz") else data


def slot_ends(day: date, slots: int = 96, offset_hours: int = 1) -> list[str]:
    """ISO texts of the ends of a day's quarter-hours, by an offset of its beginning, in UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=offset_hours)
    return [f"{start + timedelta(minutes=15 * (k + 1)):%Y-%m-%dT%H:%M:%SZ}" for k in range(slots)]


def customers(*meters: str, transformer: str = "t1") -> list[dict[str, Any]]:
    """Rows of customers, one a meter, with a name that must not go anywhere."""
    return [
        {
            "customer_id": f"c-{meter}", "meter_id": meter, "transformer_id": transformer, "phase": "A",
            "tariff": "residential", "valid_from": "2015-01-01", "valid_to": "", "name": "Erika Mustermann",
        }
        for meter in meters
    ]  # fmt: skip


def table(lake: Lake, name: str) -> list[dict[str, Any]]:
    """All rows of a table in key order, read by delta-rs; none if there is no table."""
    if not lake.exists(name):
        return []
    rows = pa.table(DeltaTable(lake.path(name)).to_pyarrow_table()).select(ARROW[name].names)
    simple = [f.name for f in rows.schema if not (pa.types.is_binary(f.type) or pa.types.is_nested(f.type))]
    return rows.sort_by([(name, "ascending") for name in simple]).to_pylist()
