"""Delta to Delta: the slope of the sunk power flow between two sizes, and what the rivals take, in one run."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import click

from benchmarks import common
from lib.baseline import comparison
from lib.settings import load

NOTES = (
    "Each point is the product's own job in a process of its own, from the command to its exit, tables written: the "
    "median over the rounds, in which sides and sizes take turns.",
    "ns per bus and snapshot is the slope between the two sizes; the seconds that do not grow with the data (starting "
    "Java and Spark, the first compilation) are 'fixed seconds'.",
    "(b) and (c) collect, calculate on all cores and write nothing; (c) makes the rows of the tables, (b) voltages "
    "and their minimum, mean and maximum. (a) is pandapower's loop on a sample, scaled: the slope is its loop's.",
)


@click.command()
@click.option(
    "--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; missing days are built first."
)
@click.option("--days", "sizes", nargs=2, type=int, default=(2, 32), show_default=True, help="Small and large size.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--region", "regions", multiple=True, help="Only these regions.  [default: all]")
@click.option("--driver-memory", default="4g", show_default=True, help="Heap of the driver, the same for every side.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting; may be given again.")
def main(
    lake: str,
    sizes: tuple[int, int],
    rounds: int,
    regions: tuple[str, ...],
    driver_memory: str,
    overrides: tuple[str, ...],
) -> None:
    chosen = [f"lake.path={lake}", f"spark.driver_memory={driver_memory}", *overrides]
    settings = load(chosen, environment={})
    common.build_lake(settings, sizes[1], regions)
    all_days = tuple(settings.demo.start + timedelta(days=n) for n in range(sizes[1]))
    points: dict[str, dict[int, list[dict[str, Any]]]] = {s.name: {n: [] for n in sizes} for s in comparison.SIDES}
    for number in range(rounds):
        for days in sizes:
            rows = comparison.Rows(regions or tuple(settings.regions), all_days[:days])
            for side in comparison.SIDES:
                if side.name == "pandapower" and number:
                    continue  # a sample either way
                measured = comparison.measure(side, rows, settings)
                del measured["files"], measured["run_id"]  # folders of this run
                points[side.name][days].append(measured)
                common.say(f"round {number + 1}, {days} days, {side.title}: {measured['whole_process_s']:.1f} s")
    slopes = [slope(side.title, points[side.name], sizes) for side in comparison.SIDES]
    sunk = slopes[0]["ns per bus and snapshot"]
    for row in slopes:
        row["times the sunk run's"] = row["ns per bus and snapshot"] / sunk
    parameters = {"days": sizes, "rounds": rounds, "regions": regions or list(settings.regions)}
    parameters |= {"driver_memory": driver_memory, "first_day": date.isoformat(all_days[0]), "settings": overrides}
    common.write("end_to_end", parameters, {"Delta to Delta": slopes}, NOTES, points)


def slope(title: str, points: dict[int, list[dict[str, Any]]], sizes: tuple[int, int]) -> dict[str, Any]:
    """Slope and intercept through the medians at the two sizes."""
    small, large = sizes
    scaled = points[small][0]["scaled"]
    # a scaled time is the job's own; the process itself ran the sample alone
    which = "seconds" if scaled else "whole_process_s"
    seconds = {n: common.median([it[which] for it in points[n]]) for n in sizes}
    amount = {n: points[n][0]["bus_snapshots"] for n in sizes}
    per = (seconds[large] - seconds[small]) / (amount[large] - amount[small])
    return {
        "side": title,
        "scaled": scaled,
        f"seconds, {small} days": seconds[small],
        f"seconds, {large} days": seconds[large],
        "bus-snapshots": amount[large],
        "ns per bus and snapshot": per * 1e9,
        "fixed seconds": seconds[small] - per * amount[small],
    }


if __name__ == "__main__":
    main()
