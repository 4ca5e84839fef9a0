"""Collect every snapshot to the driver and solve there: what sinking is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobs import selection

if TYPE_CHECKING:
    from lib.job import JobContext, JobResult

READS = ("network", "snapshot_tile")
ENGINE_NAMES = ("pandapower", "power-grid-model", "gridsink")


def options() -> list[click.Option]:
    return [
        click.Option(
            ["--engine"], type=click.Choice(ENGINE_NAMES), default="power-grid-model", show_default=True,
            help="Who calculates: pandapower's loop (a sample, scaled), power-grid-model's batch, gridsink's solver.",
        ),
        *selection.options(),
    ]  # fmt: skip


def run(context: JobContext) -> JobResult:
    import pyarrow.parquet as pq

    from lib.baseline import engines
    from lib.baseline.collect import collect
    from lib.job import JobResult

    options = context.options
    engine = options["engine"]
    spark, lake = context.spark, context.lake
    with context.phase("collect"):
        collected = collect(
            spark,
            lake,
            regions=options["regions"],
            first=selection.day(options["first"]),
            last=selection.day(options["last"]),
        )
    outcome = engines.run(engine, collected, context.settings, context.settings.baseline.sample_snapshots)
    context.phases |= outcome.seconds
    context.count(
        rows_in=collected.tiles.num_rows, bytes_returned=collected.bytes_to_driver, snapshots=outcome.snapshots,
        bus_snapshots=outcome.bus_snapshots, snapshots_failed=outcome.failed,
    )  # fmt: skip
    files = {name: str(context.run_dir / f"{name}.parquet") for name in ("bus_day", "sample")}
    pq.write_table(outcome.bus_day, files["bus_day"])
    pq.write_table(outcome.sample, files["sample"])
    seconds = context.phases["collect"] + sum(outcome.seconds.values())
    figures = {
        "engine": engine,
        "network_days": len(collected.rows),
        "snapshots": outcome.snapshots,
        "bus_snapshots": outcome.bus_snapshots,
        "snapshots_failed": outcome.failed,
        "seconds": round(seconds, 3),
        "bytes_to_driver": collected.bytes_to_driver,
        "scaled": outcome.scaled,
        "solved_snapshots": outcome.solved_snapshots,
    }
    phases = {"collect": context.phases["collect"]} | outcome.seconds
    notes: dict[str, Any] = {"phases_s": phases, "measured_solve_s": outcome.measured_solve_s}
    table = {
        "engine": engine,
        "bus-snapshots": outcome.bus_snapshots,
        "failed": outcome.failed,
        "seconds": f"{seconds:.3g}"
        + (f" (scaled from {outcome.solved_snapshots} snapshots)" if outcome.scaled else ""),
        "MB to the driver": round(collected.bytes_to_driver / 1e6, 2),
    }
    return JobResult(
        summary=figures | notes | {"timed": engines.TIMED[engine], "files": files}, tables={"baseline": [table]}
    )
