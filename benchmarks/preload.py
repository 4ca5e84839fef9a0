"""Memory of Python workers above what they preload, for two budgets, from one region's day to the whole year."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from benchmarks import common
from lib.baseline import comparison
from lib.settings import load

MIB = 2**20
NOTES = (
    "Each task resets and reads Linux's high-water mark of its worker's resident memory (VmHWM). Above the baseline: "
    "the highest peak of any task less the lowest resident memory of any worker that had preloaded its topologies and "
    "factorisations, so that what a worker keeps from one task to the next counts too.",
    "Files of this machine are read in the calculating thread, a row group at a time; a remote region's are read ahead "
    "up to the budget.",
)


@click.command()
@click.option(
    "--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; missing days are built first."
)
@click.option("--days", multiple=True, type=int, default=(1, 30, 366), show_default=True)
@click.option("--budget", "budgets", multiple=True, default=("256m", "1g"), show_default=True)
def main(lake: str, days: tuple[int, ...], budgets: tuple[str, ...]) -> None:
    settings = load([f"lake.path={lake}"], environment={})
    common.build_lake(settings, max(days), ())
    smallest = sorted(settings.regions)[0]
    rows = []
    for budget in budgets:
        texts = comparison.overrides(settings, preload__worker_memory=budget)
        for count, regions in [(1, (smallest,)), *((n, ()) for n in days)]:
            last = settings.demo.start + timedelta(days=count - 1)
            chosen = [part for region in regions for part in ("--region", region)]
            span = ("--from", str(settings.demo.start), "--to", str(last))
            report, record = common.job("powerflow.solve", "--recompute", *span, *chosen, settings=texts)
            rows.append(_row(budget, count, regions, record) | {"seconds": report.seconds})
            common.say(str(rows[-1]))
    common.write("preload", {"days": days, "budgets": budgets}, {"workers": rows}, NOTES)


def _row(budget: str, days: int, regions: tuple[str, ...], record: dict[str, Any]) -> dict[str, Any]:
    memory = [task["memory_bytes"] for task in record["inputs"]["tasks"]]
    baseline, peak = min(base for base, _ in memory), max(top for _, top in memory)
    limit = {"m": MIB, "g": 2**30}[budget[-1]] * int(budget[:-1])
    return {
        "budget": budget,
        "days": days,
        "regions": ", ".join(regions) or "all",
        "bus-snapshots": comparison.solved_bus_snapshots(record["summary"]),
        "baseline, MiB": round(baseline / MIB),
        "peak, MiB": round(peak / MIB),
        "above baseline, MiB": round((peak - baseline) / MIB),
        "of the budget": round((peak - baseline) / limit, 3),
    }


if __name__ == "__main__":
    main()
