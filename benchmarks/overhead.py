"""CPU seconds of the whole path (planner, cache, Spark, commits) against the partition function called directly."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Sequence
from datetime import date, timedelta
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import click

from benchmarks import common
from lib.baseline import child, comparison
from lib.launch import kernels
from lib.settings import STATE, Settings, load

NOTES = (
    "Whole: powerflow.solve --recompute, every process of it from start to exit: launcher, JVM, driver, workers. Every "
    "row is read, hashed, solved, written, committed and recorded in the cache.",
    "Direct: the same files read, solved and written by the same operator in as many processes as there are cores: no "
    "Spark, no plan, no hashing, no cache, no commit.",
    "CPU seconds are the kernel's own count for a control group, ended processes included. The slope between the two "
    "sizes leaves out what does not grow with the data. Sides and sizes take turns; the interval is a 95 % bootstrap "
    "over the rounds.",
)


@click.command()
@click.option(
    "--lake", required=True, type=click.Path(file_okay=False), help="Demo lake; missing days are built first."
)
@click.option("--days", "sizes", nargs=2, type=int, default=(8, 40), show_default=True, help="Small and large size.")
@click.option("--rounds", default=6, show_default=True)
@click.option("--direct", type=int, hidden=True, help="Be the direct side over so many days.")
def main(lake: str, sizes: tuple[int, int], rounds: int, direct: int | None) -> None:
    settings = load([f"lake.path={lake}"], environment={})
    if direct is not None:
        _direct(settings, direct)
        return
    common.build_lake(settings, sizes[1], ())
    seconds: dict[tuple[str, int], list[float]] = {(side, n): [] for side in ("whole", "direct") for n in sizes}
    bus_snapshots: dict[int, int] = {}
    for number in range(rounds):
        for n in sizes:
            with common.metered() as used:
                record = _whole(settings, n)
            seconds["whole", n].append(used[0])
            bus_snapshots[n] = comparison.solved_bus_snapshots(record["summary"])
            command = [sys.executable, "-m", "benchmarks.overhead", "--lake", settings.lake.path, "--direct", str(n)]
            with common.metered() as used:
                report = child.run(command)
            if not report.finished:
                raise RuntimeError(f"{' '.join(command)} {report.reason}:\n{report.tail}")
            seconds["direct", n].append(used[0])
            common.say(f"round {number + 1}, {n} days: " + str({k[0]: v[-1] for k, v in seconds.items() if k[1] == n}))
    small, large = sizes
    grown = bus_snapshots[large] - bus_snapshots[small]
    slopes = {
        side: [b - a for a, b in zip(seconds[side, small], seconds[side, large], strict=True)]
        for side in ("whole", "direct")
    }
    ratio = common.median(slopes["whole"]) / common.median(slopes["direct"])
    low, high = _interval(slopes["whole"], slopes["direct"])
    rows = [
        {
            "side": side,
            f"CPU s, {small} days": common.median(seconds[side, small]),
            f"CPU s, {large} days": common.median(seconds[side, large]),
            "CPU ns per bus and snapshot (slope)": common.median(slopes[side]) / grown * 1e9,
        }
        for side in ("whole", "direct")
    ]
    verdict = [{"whole over direct": ratio, "95 % from": low, "to": high, "overhead": f"{(ratio - 1) * 100:.1f} %"}]
    tables = {"CPU": rows, "overhead": verdict}
    raw = {f"{side}, {n} days": values for (side, n), values in seconds.items()}
    common.write("overhead", {"days": sizes, "rounds": rounds}, tables, NOTES, raw)


def _whole(settings: Settings, days: int) -> dict[str, Any]:
    last = settings.demo.start + timedelta(days=days - 1)
    span = ("--from", str(settings.demo.start), "--to", str(last))
    return common.job("powerflow.solve", "--recompute", *span, settings=comparison.overrides(settings))[1]


def _direct(settings: Settings, days: int) -> None:
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA", "ARROW"):
        os.environ[f"{pool}_NUM_THREADS"] = "1"
    os.environ |= kernels.environment(STATE / "numba", unpacked=True)
    last = settings.demo.start + timedelta(days=days - 1)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=settings.lake.path) as folder, Pool(cores) as pool:
        work = [(settings, settings.demo.start, last, i, cores, folder) for i in range(cores)]
        pool.starmap(_solve_share, work, chunksize=1)


def _solve_share(settings: Settings, first: date, last: date, share: int, of: int, folder: str) -> None:
    """Every `of`-th cell: its rows through the operator, its results to files."""
    from lib.algorithm.operator import Day
    from lib.algorithm.operators.powerflow import PowerFlowOperator
    from lib.calculation import side
    from lib.calculation.located import Selection
    from lib.calculation.parts import PartWriter
    from lib.calculation.rows import FileRows
    from lib.calculation.storage import filesystem
    from lib.fusion.step import plan
    from lib.tables import Lake

    operator = PowerFlowOperator.from_settings(settings)
    planned = plan(Lake(settings.lake.path), settings, operator, Selection((), first, last))
    roots = {table: f"{folder}/{table}" for table in operator.outputs}
    for root in roots.values():
        Path(root).mkdir(exist_ok=True)
    for cell in planned.cells[share::of]:
        rows = FileRows(filesystem(planned.root), cell.files, operator.group, operator.columns, operator.key)
        sides = side.side_rows(operator, planned.side_root, cell.side_files)
        day = Day(cell.region, cell.date, cell.length_s)
        writer = PartWriter(roots, cell.region, cell.date)
        for key, places in rows.index().items():
            state = side.state(operator, sides, key, cell.date)
            whole = None
            for place, _ in places:
                some, _ = operator.map(rows.read(place), state, day)
                whole = some if whole is None else whole if some is None else operator.merge(whole, some)
            for table, batch in operator.finish(whole, state, day)[0].items():
                writer.add(table, batch, dict(zip(operator.group, key, strict=True)))
        writer.close()


def _interval(whole: Sequence[float], direct: Sequence[float]) -> tuple[float, float]:
    draw = random.Random(1)
    ratios = []
    for _ in range(2000):
        rounds = draw.choices(range(len(whole)), k=len(whole))
        ratios.append(common.median([whole[i] for i in rounds]) / common.median([direct[i] for i in rounds]))
    ratios.sort()
    return ratios[50], ratios[-51]


if __name__ == "__main__":
    main()
