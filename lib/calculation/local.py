"""Runs an operator over a plan's cells with Spark: tasks carry file names out and small reports back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from lib.algorithm.operator import Operator
from lib.calculation import jvm, scan
from lib.calculation.located import Cell, Plan, assign
from lib.calculation.parts import Part
from lib.calculation.storage import is_local
from lib.calculation.worker import REPORT_DDL, combine, run_cells
from lib.tables import Lake

TASKS_PER_CORE = 4


@dataclass
class Outcome:
    """What a run over some cells came to: result files to commit, and what to report."""

    parts: dict[str, list[Part]] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `quarantine` without the job: region, date, table, key (dict), reason, remedy, rows."""
    figures: dict[str, float] = field(default_factory=dict)
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_returned: int = 0
    worker_seconds: float = 0.0
    tasks: list[dict[str, Any]] = field(default_factory=list)
    """Per cell: region, date, seconds, bytes read, written and returned."""
    missing_files: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Result files that could not be written."""

    def add(self, report: Mapping[str, Any], size: int, figures: Mapping[str, str]) -> None:
        """Joins one cell's report of `size` bytes."""
        for part in report["parts"]:
            self.parts.setdefault(part["table"], []).append(Part(**part))
        at = {"region": report["region"], "date": report["date"]}
        self.rejected += [at | row for row in report["rejected"]]
        for name, found in (("missing_file", self.missing_files), ("failed", self.failures)):
            if report[name]:
                found.append(report[name])
        for name in ("rows_in", "rows_out", "rows_quarantined", "bytes_read", "bytes_written"):
            setattr(self, name, getattr(self, name) + report[name])
        self.bytes_returned += size
        self.worker_seconds += report["seconds"]
        combine(self.figures, report["figures"], figures)
        task = {name: report[name] for name in ("bytes_read", "bytes_written")}
        self.tasks.append(at | task | {"bytes_returned": size, "seconds": round(report["seconds"], 4)})


def run(
    spark: SparkSession, lake: Lake, operator: Operator, plan: Plan, cores: int | None = None
) -> dict[str, Outcome]:
    """Runs `operator` over the plan's cells; outcomes by region. Nothing is committed; see `Outcome.missing_files`."""
    if not plan.cells:
        return {}
    roots = {table: lake.path(table) for table in operator.outputs}
    tasks = TASKS_PER_CORE * (cores or spark.sparkContext.defaultParallelism)
    if plan.table in plan.reasons:
        reports = scan.run(spark, lake, operator, plan, roots, tasks)
    else:
        lists = assign(plan.cells, tasks)
        rows = [(i, cell.to_json()) for i, cells in enumerate(lists) for cell in cells]
        if is_local(plan.root):
            frame = spark.createDataFrame(rows, "task int, cell string").repartitionById(len(lists), "task")
        else:
            frame = jvm.located_rows(spark, located_tasks(jvm.with_hosts(spark, plan).cells, tasks))
        work = run_cells(operator, plan.root, plan.side_root, roots)
        reports = frame.select("cell").mapInArrow(work, REPORT_DDL)
    return gather(reports.toArrow(), operator.figures)


def located_tasks(cells: Sequence[Cell], tasks: int) -> list[tuple[list[str], tuple[str, ...]]]:
    """Cells as JSON with the hosts that hold them: cells of equal hosts share tasks, each task preferring its hosts."""
    by_hosts: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        by_hosts.setdefault(cell.hosts[:1], []).append(cell)
    share = max(1, -(-tasks // max(1, len(by_hosts))))
    return [
        ([cell.to_json() for cell in some], hosts)
        for hosts, held in sorted(by_hosts.items())
        for some in assign(held, share)
    ]


def gather(reports: pa.Table, figures: Mapping[str, str]) -> dict[str, Outcome]:
    """Joins the cells' reports by region, in order of date."""
    outcomes: dict[str, Outcome] = {}
    texts = reports.column("report").to_pylist()
    read = sorted(((json.loads(text), len(text)) for text in texts), key=lambda it: (it[0]["region"], it[0]["date"]))
    for report, size in read:
        outcomes.setdefault(report["region"], Outcome()).add(report, size, figures)
    return outcomes
