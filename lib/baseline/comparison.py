"""Sunk and collected side by side: each side is the product's own job in a child process, on the same rows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.baseline import child
from lib.baseline.collect import KEY
from lib.baseline.engines import BUS_DAY, TIMED
from lib.settings import ROOT, Settings, flatten
from lib.tables import Lake

NOT_WORK = ("start Spark", "build the demo lake")
"""Phases that are not the calculation's: the same for every side, or not of this run."""
HEAP_SHARE = 0.375
"""Share of a memory cap that the JVM gets as heap; its own overhead and Python share the rest."""
LEAST_HEAP_MIB = 512
"""Spark refuses to start with less than 450 MiB."""
MIB = 2**20


@dataclass(frozen=True)
class Side:
    """One way to calculate the same rows."""

    name: str
    title: str
    job: str
    arguments: tuple[str, ...]
    timed: str


SUNK = Side(
    "sunk", "sunk", "powerflow.solve", ("--recompute",),
    "plan, solve where the files lie, write bus_day, branch_day and network_result",
)  # fmt: skip
COLLECTED = {
    engine: Side(engine, title, "powerflow.baseline", ("--engine", engine), TIMED[engine])
    for engine, title in (
        ("gridsink", "(c) gridsink"),
        ("power-grid-model", "(b) power-grid-model"),
        ("pandapower", "(a) pandapower"),
    )
}
SIDES = (SUNK, *COLLECTED.values())
CAPPED = (SUNK, COLLECTED["gridsink"], COLLECTED["power-grid-model"])
"""Sides worth trying under a memory cap: pandapower's loop collects as the other two do."""


@dataclass(frozen=True)
class Rows:
    """The rows that every side gets: the lake's regions and days."""

    regions: tuple[str, ...]
    days: tuple[date, ...]

    def arguments(self, days: int | None = None) -> list[str]:
        """Options of the jobs; `days`: only that many first days."""
        last = self.days[-1 if days is None else days - 1]
        chosen = [argument for region in self.regions for argument in ("--region", region)]
        return ["--from", str(self.days[0]), "--to", str(last), *chosen]


def rows_of(lake: Lake, regions: Sequence[str], first: date | None, last: date | None) -> Rows:
    """What the lake has of the regions (default: all) and days. Raises ValueError if that is nothing."""
    parts = [(it["region"], date.fromisoformat(it["date"])) for it in lake.snapshot("snapshot_tile").partitions()]
    kept = {
        (region, day)
        for region, day in parts
        if (not regions or region in regions) and (first is None or day >= first) and (last is None or day <= last)
    }
    if not kept:
        raise ValueError(f"{lake.path('snapshot_tile')} has no tiles of these regions and days")
    return Rows(tuple(sorted({region for region, _ in kept})), tuple(sorted({day for _, day in kept})))


def launch(
    job: str,
    arguments: Sequence[str],
    overrides: Iterable[str],
    *,
    cap_bytes: int | None = None,
    timeout_s: float | None = None,
) -> tuple[child.Report, dict[str, Any]]:
    """A job through the one launcher, in a child: how it ended, and its record (run.json; {} if it left none).

    overrides: settings as `key=value`; lake.path must be among them.
    """
    settings = list(overrides)
    lake = next(it.partition("=")[2] for it in reversed(settings) if it.startswith("lake.path="))
    # this process may itself run under spark-submit: its Spark is not the child's
    foreign = ("PYSPARK_", "SPARK_", "_SPARK", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        argv = [str(ROOT / "spark-submit.sh"), job, *arguments, "--json", str(result)]
        argv += [part for setting in settings for part in ("--set", setting)]
        report = child.run(argv, cap_bytes=cap_bytes, timeout_s=timeout_s, env=env, cwd=ROOT)
        if not result.is_file():
            return report, {}
        run_id = json.loads(result.read_text(encoding="utf-8"))["run_id"]
    record = Path(lake.removeprefix("file://")) / "_runs" / run_id / "run.json"
    return report, json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}


def overrides(settings: Settings, **changed: Any) -> list[str]:
    """The settings as `key=value`, those in `changed` (dots as double underscores) replaced."""
    values = dict(flatten(settings.model_dump(mode="json")))
    values |= {key.replace("__", "."): value for key, value in changed.items()}
    return [f"{key}={value}" for key, value in values.items() if value not in (None, {}, "")]


def _for_side(side: Side, settings: Settings, **changed: Any) -> list[str]:
    """A collected side may bring as much to the driver as fits: Spark's own limit of 1 GiB would end it sooner."""
    texts = overrides(settings, **changed)
    return texts if side is SUNK else [*texts, "spark.conf.spark.driver.maxResultSize=0"]


def measure(side: Side, rows: Rows, settings: Settings) -> dict[str, Any]:
    """Run one side on the rows and say what it took. Raises RuntimeError, with its last words, if it fails."""
    report, record = launch(side.job, [*side.arguments, *rows.arguments()], _for_side(side, settings))
    if not report.finished or not record:
        raise RuntimeError(f"{side.title} {report.reason}:\n{report.tail[-2000:]}")
    phases = {name: seconds for name, seconds in record["phases_s"].items() if name not in NOT_WORK}
    seconds = sum(phases.values())
    summary, counts = record["summary"], record["counts"]
    bus_snapshots = solved_bus_snapshots(summary)
    return {
        "side": side.name,
        "title": side.title,
        "timed": side.timed,
        "seconds": seconds,
        "scaled": bool(summary.get("scaled", False)),
        "solved_snapshots": summary.get("solved_snapshots"),
        "phases_s": phases,
        "whole_process_s": report.seconds,
        "bus_snapshots": bus_snapshots,
        "bus_snapshots_per_s": bus_snapshots / seconds,
        "bytes_to_driver": counts["bytes_returned"],
        "driver_jvm_bytes": report.peak_bytes.get("driver_jvm", 0),
        "driver_python_bytes": report.peak_bytes.get("driver_python", 0),
        "worker_bytes": report.peak_bytes.get("worker", 0),
        "files": summary.get("files", {}),
        "run_id": record["run_id"],
    }


def solved_bus_snapshots(summary: Mapping[str, Any]) -> int:
    """Buses times snapshots of a run: the baseline says it for all, the sunk job by region."""
    if "bus_snapshots" in summary:
        return int(summary["bus_snapshots"])
    return int(sum(region.get("bus_snapshots", 0) for region in summary["regions"].values()))


def gains(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What the kernel gains and what sinking gains, apart: ratios of seconds, above 1 where there is a gain."""
    sunk, kernel, rival, loop = (sides[s.name]["seconds"] for s in SIDES)
    solving = {
        name: sum(seconds for phase, seconds in sides[name]["phases_s"].items() if phase not in ("collect", "build"))
        for name in ("power-grid-model", "gridsink")
    }
    return {
        "kernel": rival / kernel,
        "kernel_calculation_alone": solving["power-grid-model"] / solving["gridsink"],
        "sinking": kernel / sunk,
        "sunk_over_power_grid_model": rival / sunk,
        "sunk_over_pandapower_scaled": loop / sunk,
    }


# -- agreement --------------------------------------------------------------------------------------------------------


AGREEMENT_PU = 1e-6
"""Sides further apart than this do not solve the same problem: compare then ends with exit code 1."""


def agreement(sides: Mapping[str, Mapping[str, Any]], lake: Lake, rows: Rows) -> list[dict[str, Any]]:
    """Largest difference of voltages between sides on the same rows: every day's figures, and the sampled snapshots."""
    figures = {name: pq.read_table(sides[name]["files"]["bus_day"]) for name in ("gridsink", "power-grid-model")}
    figures["sunk"] = lake.snapshot("bus_day").to_pyarrow_table(
        columns=[*KEY, "bus", *BUS_DAY],
        filters=[("region", "in", list(rows.regions)), ("date", ">=", rows.days[0]), ("date", "<=", rows.days[-1])],
    )
    samples = {name: pq.read_table(sides[name]["files"]["sample"]) for name in COLLECTED}
    found = []
    for one, other in (("sunk", "gridsink"), ("sunk", "power-grid-model")):
        worst = [difference(figures[one], figures[other], (*KEY, "bus"), value) for value in BUS_DAY]
        found.append(_pair(one, other, "every bus and day: min, mean, max", worst))
    for other in ("power-grid-model", "pandapower"):
        worst = [difference(samples["gridsink"], samples[other], (*KEY, "bus", "slot"), "vm_pu")]
        found.append(_pair("gridsink", other, "sampled snapshots", worst))
    return found


def _pair(one: str, other: str, what: str, differences: Sequence[tuple[int, float]]) -> dict[str, Any]:
    count, largest = sum(n for n, _ in differences), max(d for _, d in differences)
    return {"one": one, "other": other, "voltages": what, "values": count, "max |dV| [pu]": largest}


def difference(one: pa.Table, other: pa.Table, key: Sequence[str], value: str) -> tuple[int, float]:
    """Number of values compared and their largest difference; infinite where one side has a value the other has not."""
    left, right = (table.sort_by([(name, "ascending") for name in key]) for table in (one, other))
    for name in key:
        kind = left.schema.field(name).type
        if left.num_rows != right.num_rows or not left[name].equals(right[name].cast(kind)):
            return left.num_rows, float("inf")
    a, b = (np.asarray(table[value].fill_null(float("nan")), float) for table in (left, right))
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return len(a), float("inf")
    return len(a), float(np.nanmax(np.abs(a - b), initial=0.0))


# -- the same memory --------------------------------------------------------------------------------------------------


def largest_under_cap(side: Side, rows: Rows, settings: Settings, cap_bytes: int) -> dict[str, Any]:
    """The most days a side finishes with its whole process tree, workers included, under a memory cap.

    All days first; where they do not fit, 1, 2, 4, ... until it fails.
    """
    total = len(rows.days)
    heap = f"{max(int(cap_bytes * HEAP_SHARE) // MIB, LEAST_HEAP_MIB)}m"
    texts = _for_side(side, settings, spark__driver_memory=heap)
    tries: list[dict[str, Any]] = []

    def finishes(days: int) -> bool:
        report, _ = launch(side.job, [*side.arguments, *rows.arguments(days)], texts, cap_bytes=cap_bytes)
        tries.append({"days": days, "ended": report.reason, "seconds": report.seconds, "cap_kind": report.cap_kind})
        if not report.finished:
            tries[-1]["tail"] = report.tail
        return report.finished

    done = total if finishes(total) else 0
    while not done or done < total:
        days = max(1, 2 * done)
        if days >= total or not finishes(days):
            break
        done = days
    ends = [it["ended"] for it in tries if it["days"] > done]
    return {
        "side": side.name, "title": side.title, "cap_mib": cap_bytes // MIB, "cap_kind": tries[0]["cap_kind"],
        "heap": heap, "days_finished": done, "days_tried": total, "ended": ends[-1] if ends else "finished",
        "tries": tries,
    }  # fmt: skip
