"""How soon a pipeline's first results can be used while the rest is still being calculated."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from benchmarks import common
from lib.baseline import comparison
from lib.settings import load

NOTES = (
    "One cold run of the pipeline network_losses (power flow, statistics, a formula over branch_day): nothing in the "
    "cache, no results. A round is done when its cells are through all steps, committed, and in the result table.",
    "From the command: the seconds of the launcher's and Spark's start count.",
)


@click.command()
@click.option("--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; its results are deleted.")
@click.option("--days", default=366, show_default=True)
def main(lake: str, days: int) -> None:
    settings = load([f"lake.path={lake}"], environment={})
    common.build_lake(settings, days, ())
    for folder in ("gold", "cache"):
        shutil.rmtree(Path(settings.lake.path) / folder, ignore_errors=True)
    report, record = common.job("pipeline.run", "network_losses", settings=comparison.overrides(settings))
    rounds = record["inputs"]["rounds"]
    before = report.seconds - record["seconds"]  # what the run itself does not see: the launcher, and Spark's end
    rows, done = [], 0
    for it in rounds:
        done += it["cells"]
        rows.append(
            {
                "region-days done": done,
                "s from the command": before + it["seconds"],
                "of the whole run": (before + it["seconds"]) / report.seconds,
            }
        )
    run = {"region-days": done, "seconds": report.seconds, "phases": str(record["phases_s"])}
    common.write("progressive", {"days": days}, {"rounds": rows, "the run": [run]}, NOTES, record["summary"]["steps"])


if __name__ == "__main__":
    main()
