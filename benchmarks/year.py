"""The whole year of the demo lake, month by month; broken off, it goes on where it stopped."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from benchmarks import common
from lib.baseline import comparison
from lib.settings import load

NOTES = (
    "One run of powerflow.solve a month: seconds are those of the whole process, start and commits included.",
    "Building the lake is not in them.",
)


@click.command()
@click.option(
    "--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; missing days are built first."
)
@click.option("--days", default=366, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting; may be given again.")
def main(lake: str, days: int, overrides: tuple[str, ...]) -> None:
    settings = load([f"lake.path={lake}", *overrides], environment={})
    texts = comparison.overrides(settings)
    common.build_lake(settings, days, ())
    state = Path(settings.lake.path) / "_runs" / "benchmark-year.json"
    done: dict[str, dict[str, Any]] = json.loads(state.read_text()) if state.is_file() else {}
    end = settings.demo.start + timedelta(days=days - 1)
    first = settings.demo.start
    while first <= end:
        last = min((first.replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1), end)
        key = f"{first}..{last}"
        if key not in done:
            arguments = ("--from", str(first), "--to", str(last))
            report, record = common.job("powerflow.solve", *arguments, settings=texts)
            regions = record["summary"]["regions"].values()
            done[key] = {
                "days": (last - first).days + 1,
                "bus-snapshots": comparison.solved_bus_snapshots(record["summary"]),
                "not converged": sum(int(it["snapshots"] - it["converged"]) for it in regions),
                "seconds": report.seconds,
                "driver, MiB": round(report.driver_bytes / 2**20),
                "workers, MiB": round(report.peak_bytes.get("worker", 0) / 2**20),
                "quarantined": record["counts"]["rows_quarantined"],
            }
            state.write_text(json.dumps(done, indent=1))
            common.say(f"{key}: {report.seconds:.0f} s")
        first = last + timedelta(days=1)
    rows = [{"month": key} | figures for key, figures in done.items()]
    total = {"month": "all"} | {
        name: (max if "MiB" in name else sum)(row[name] for row in rows) for name in rows[0] if name != "month"
    }
    summary = {"ns per bus and snapshot, everything included": total["seconds"] * 1e9 / total["bus-snapshots"]}
    common.write("year", {"days": days, "settings": overrides}, {"a year": [*rows, total], "rate": [summary]}, NOTES)


if __name__ == "__main__":
    main()
