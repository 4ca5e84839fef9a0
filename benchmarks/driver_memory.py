"""Memory of the driver, JVM and Python, while executors of their own processes solve 1 day and 60 days."""

from __future__ import annotations

from datetime import timedelta

import click

from benchmarks import common
from lib.baseline import comparison
from lib.settings import load

MIB = 2**20
NOTES = (
    "Peak resident memory (VmHWM) of the driver's JVM and of its Python, the sum of both peaks as 'driver'; executors, "
    "their Python workers and the waiting launcher are processes of their own and counted apart.",
)


@click.command()
@click.option(
    "--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; missing days are built first."
)
@click.option("--days", multiple=True, type=int, default=(1, 60), show_default=True)
@click.option("--master", default="local-cluster[2,1,4096]", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting; may be given again.")
def main(lake: str, days: tuple[int, ...], master: str, overrides: tuple[str, ...]) -> None:
    settings = load([f"lake.path={lake}", *overrides], environment={})
    common.build_lake(settings, max(days), ())
    # executors as large as the master gives them
    texts = [*comparison.overrides(settings), f"spark.master={master}", "spark.executor_memory=3g"]
    rows = []
    for count in days:
        last = settings.demo.start + timedelta(days=count - 1)
        report, record = common.job(
            "powerflow.solve", "--recompute", "--from", str(settings.demo.start), "--to", str(last), settings=texts
        )
        rows.append(
            {
                "days": count,
                "bus-snapshots": comparison.solved_bus_snapshots(record["summary"]),
                "driver, MiB": round(report.driver_bytes / MIB),
                "of it JVM": round(report.peak_bytes.get("driver_jvm", 0) / MIB),
                "of it Python": round(report.peak_bytes.get("driver_python", 0) / MIB),
                "executors, MiB": round(report.peak_bytes.get("executor", 0) / MIB),
                "launcher, MiB": round(report.peak_bytes.get("launcher", 0) / MIB),
                "MiB to the driver": record["counts"]["bytes_returned"] / MIB,
                "seconds": report.seconds,
            }
        )
        common.say(str(rows[-1]))
    parameters = {"days": days, "master": master, "driver_memory": settings.spark.driver_memory, "settings": overrides}
    common.write("driver_memory", parameters, {"driver memory": rows}, NOTES)


if __name__ == "__main__":
    main()
