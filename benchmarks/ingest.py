"""Readings through landing, bronze and silver to tiles: rows a second and core, and the memory of workers, by size."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandapower
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from benchmarks import common

FIRST, DAYS, SLOTS = date(2016, 1, 1), 30, 96
AREAS = 100
MIB = 2**20
NOTES = (
    "A reading is one value of one meter and quarter-hour of import_kwh, 2 % of them missing. rows: a CSV file a day, "
    "a line a reading. curves: a Parquet file a day, a line a meter. 30 days of one network of 100 areas; sizes differ "
    "in the number of meters.",
    "Each point is ingest.load in a process of its own on an empty lake: landing to bronze, silver (meter_day, "
    "network) and snapshot_tile. Seconds are the job's phases without the start of Spark.",
    "CPU seconds are of all processes of the command. Readings a CPU second, slope: between this size and the one "
    "before, so without what every run costs.",
    "Memory of workers: the sum of Linux's high-water marks of resident memory over all Python workers.",
)


@click.command()
@click.option("--folder", required=True, type=click.Path(file_okay=False), help="For landings and lakes.")
@click.option("--form", "forms", multiple=True, type=click.Choice(["rows", "curves"]), default=("rows", "curves"))
@click.option(
    "--readings", multiple=True, type=float, default=(1e5, 1e6), show_default=True, help="May be given again."
)
def main(folder: str, forms: tuple[str, ...], readings: tuple[float, ...]) -> None:
    root = Path(folder).resolve() / "ingest_benchmark"
    rows = []
    for form in forms:
        before: dict[str, Any] | None = None
        for size in sorted(readings):
            shutil.rmtree(root, ignore_errors=True)
            count = landing(root / "landing" / "north", form, round(size / DAYS / SLOTS))
            row = measure(root, form, count)
            slope = None
            if before:
                slope = round((row["readings"] - before["readings"]) / (row["CPU s"] - before["CPU s"]))
            row["readings a CPU second, slope"] = slope
            rows.append(row)
            common.say(str(row))
            before = row
    shutil.rmtree(root, ignore_errors=True)
    common.write("ingest", {"days": DAYS, "areas": AREAS}, {"ingest.load": rows}, NOTES)


def measure(root: Path, form: str, count: int) -> dict[str, Any]:
    """One load of the landing into an empty lake."""
    region = "regions.north={simbench_code: none, time_zone: Europe/Berlin}"
    settings = [f"lake.path={root}/lake", f"landing.path={root}/landing", region]
    with common.metered() as cpu:
        report, record = common.job("ingest.load", "--region", "north", settings=settings)
    phases = record["phases_s"]
    feeds = {row["feed"]: row["seconds"] for row in record["summary"]["feeds"]}
    return {
        "form": form,
        "readings": count,
        "to bronze, s": phases["landing to bronze"],
        "to meter_day, s": feeds["readings"],
        "to tiles, s": feeds["snapshot_tile"],
        "seconds": round(sum(phases.values()) - phases.get("start Spark", 0), 1),
        "whole process, s": round(report.seconds, 1),
        "CPU s": round(cpu[0], 1),
        "workers, MiB": round(report.peak_bytes.get("worker", 0) / MIB),
        "driver's JVM, MiB": round(report.peak_bytes.get("driver_jvm", 0) / MIB),
    }


def landing(folder: Path, form: str, meters: int) -> int:
    """Files of these many meters; the number of readings."""
    (folder / "assets" / "networks").mkdir(parents=True)
    (folder / "meters").mkdir()
    (folder / "customers").mkdir()
    pandapower.to_json(network(), str(folder / "assets" / "networks" / "net.json"))
    model = {"network_id": "net", "valid_from": "2015-01-01", "format": "pandapower", "file": "net.json"}
    _csv(folder / "assets" / "networks-20151231T000000Z.csv", pa.Table.from_pylist([model]))
    area = [{"transformer_id": f"t{k}", "network_id": "net", "s_rated_kva": 630, "element": k} for k in range(AREAS)]
    _csv(folder / "assets" / "transformers-20151231T000000Z.csv", pa.Table.from_pylist(area))
    ids = np.array([f"north-m{k:07d}" for k in range(meters)])
    places = [f"t{k % AREAS}" for k in range(meters)]
    customers = pa.table({"customer_id": ids, "meter_id": ids, "transformer_id": places})
    customers = customers.append_column("valid_from", pa.repeat(pa.scalar("2015-01-01"), meters))
    _csv(folder / "customers" / "customers-20151231T000000Z.csv", customers)
    total = 0
    for k in range(DAYS):
        day = FIRST + timedelta(days=k)
        values = np.round(np.random.default_rng(k).uniform(0, 0.5, (meters, SLOTS)), 3)
        missing = np.random.default_rng([k, 1]).random(values.shape) < 0.02
        total += int((~missing).sum()) if form == "rows" else values.size
        make = _rows if form == "rows" else _curves
        make(folder / "meters", day, ids, values, missing)
    return total


def network() -> Any:
    """A feeder of AREAS transformers in a row, 20 kV to 0.4 kV."""
    net = pandapower.create_empty_network()
    before = pandapower.create_bus(net, 20)
    pandapower.create_ext_grid(net, before)
    for _ in range(AREAS):
        upper, low = pandapower.create_bus(net, 20), pandapower.create_bus(net, 0.4)
        pandapower.create_line(net, before, upper, 0.1, "NA2XS2Y 1x240 RM/25 12/20 kV")
        pandapower.create_transformer(net, upper, low, "0.63 MVA 20/0.4 kV")
        before = upper
    return net


def _rows(folder: Path, day: date, ids: Any, values: Any, missing: Any) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=1)
    ends = [f"{start + timedelta(minutes=15 * (k + 1)):%Y-%m-%dT%H:%M:%SZ}" for k in range(SLOTS)]
    there = ~missing.ravel()
    table = pa.table(
        {
            "meter_id": np.repeat(ids, SLOTS)[there], "ts": np.tile(ends, len(ids))[there],
            "register": pa.repeat(pa.scalar("import_kwh"), int(there.sum())), "value": values.ravel()[there],
        }
    )  # fmt: skip
    _csv(folder / f"readings-{day + timedelta(days=1):%Y%m%d}T020000Z.csv", table)


def _curves(folder: Path, day: date, ids: Any, values: Any, missing: Any) -> None:
    flat = pa.array(values.ravel(), mask=missing.ravel())
    table = pa.table(
        {
            "meter_id": ids, "date": pa.repeat(pa.scalar(str(day)), len(ids)),
            "register": pa.repeat(pa.scalar("import_kwh"), len(ids)),
            "values": pa.ListArray.from_arrays(np.arange(len(ids) + 1, dtype=np.int32) * SLOTS, flat),
        }
    )  # fmt: skip
    pq.write_table(table, folder / f"curves-{day + timedelta(days=1):%Y%m%d}T020000Z.parquet")


def _csv(path: Path, table: pa.Table) -> None:
    pcsv.write_csv(table, path)


if __name__ == "__main__":
    main()
