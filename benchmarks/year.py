"""The whole year of the demo lake in one run of powerflow.solve."""

from __future__ import annotations

from typing import Any

import click

from benchmarks import common
from lib.baseline import comparison
from lib.settings import load

NOTES = (
    "One command, from start to exit: Spark's start, planning, solving, tables written and committed. Building the "
    "lake is not in it (only missing days are built, so a build broken off goes on where it stopped).",
)


@click.command()
@click.option(
    "--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; missing days are built first."
)
@click.option("--days", default=366, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting; may be given again.")
def main(lake: str, days: int, overrides: tuple[str, ...]) -> None:
    settings = load([f"lake.path={lake}", *overrides], environment={})
    common.build_lake(settings, days, ())
    report, record = common.job("powerflow.solve", "--recompute", settings=comparison.overrides(settings))
    regions: dict[str, dict[str, Any]] = record["summary"]["regions"]
    solved = comparison.solved_bus_snapshots(record["summary"])
    by_region = [
        {
            "region": name,
            "days": it["days"],
            "snapshots": it["snapshots"],
            "converged": it["converged"],
            "bus-snapshots": it["bus_snapshots"],
            "loss, MWh": round(it["loss_kwh"] / 1e3),
            "lowest voltage, pu": round(it["vm_min_pu"], 4),
            "highest loading, %": round(it["loading_max_percent"], 1),
        }
        for name, it in regions.items()
    ]
    run = {
        "bus-snapshots": solved,
        "seconds": report.seconds,
        "ns per bus and snapshot, everything included": report.seconds * 1e9 / solved,
        "quarantined": record["counts"]["rows_quarantined"],
        "GB read": record["counts"]["bytes_read"] / 1e9,
        "MB written": record["counts"]["bytes_written"] / 1e6,
        "MB returned": record["counts"]["bytes_returned"] / 1e6,
        "driver, MiB": round(report.driver_bytes / 2**20),
        "workers, MiB": round(report.peak_bytes.get("worker", 0) / 2**20),
    }
    tables = {"the run": [run], "a year": by_region, "phases": [record["phases_s"]]}
    common.write("year", {"days": days, "settings": overrides}, tables, NOTES)


if __name__ == "__main__":
    main()
