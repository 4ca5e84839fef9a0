"""Runs an operator over blocks of cells with Spark: tasks carry file names out and small reports back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from lib.algorithm.fingerprint import library_versions
from lib.algorithm.formula import Formula
from lib.algorithm.operator import Operator
from lib.calculation import jvm, scan
from lib.calculation.located import Cell, Plan
from lib.calculation.parts import Part
from lib.calculation.storage import is_local
from lib.calculation.worker import REPORT_DDL, Work, run_cells
from lib.errors import GridsinkError
from lib.tables import Lake

Block = Sequence[Cell]
_TASKS = pa.schema([("task", pa.int32()), ("cell", pa.string())])


@dataclass(frozen=True)
class Outcome:
    """What a cell came to: result files to commit, its partial, and what to report."""

    region: str
    date: date
    inputs: Mapping[str, str]
    digest: str | None
    """Of the cell; None where something could not be read."""
    found: bool
    """Its result is the known one of this digest."""
    note: str | None
    parts: tuple[Part, ...]
    rejected: tuple[dict[str, Any], ...]
    """Rows of `quarantine` without region, date and job: table, key (dict), reason, remedy, rows."""
    figures: bytes
    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes_read: int
    bytes_written: int
    bytes_returned: int
    seconds: float
    memory: tuple[int, int | None]
    """Resident bytes of the worker: after preloading, and their peak since."""
    missing_file: str | None
    failed: str | None
    """A result file could not be written."""


def run(
    spark: SparkSession, lake: Lake, operator: Operator | Formula, plan: Plan, blocks: Sequence[Block],
    memory_bytes: int, hash_only: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Runs `operator` over the blocks, each a task, in their order. Nothing is committed.

    memory_bytes: what one worker may hold of rows that are read ahead. hash_only: digests alone. Outcomes are in order
    of region and date; see `Outcome.missing_file` and `failed`.
    """
    if not blocks:
        return []
    roots = {table: lake.path(table) for table in operator.outputs}
    work = Work(operator, plan.root, plan.side_root, roots, memory_bytes, hash_only, plan.beside_root)
    if plan.table in plan.reasons:
        cells = [cell for block in blocks for cell in block]
        reports = scan.run(spark, lake, work, plan, cells, len(blocks))
    else:
        if is_local(plan.root):
            rows = [{"task": i, "cell": cell.to_json()} for i, block in enumerate(blocks) for cell in block]
            # as Arrow: rows of Python would go through Python workers first
            frame = spark.createDataFrame(pa.Table.from_pylist(rows, _TASKS)).repartitionById(len(blocks), "task")
        else:
            tasks = [jvm.with_hosts(spark, plan.root, block) for block in blocks]
            frame = jvm.located_rows(spark, [([cell.to_json() for cell in block], hosts) for block, hosts in tasks])
        reports = frame.select("cell").mapInArrow(run_cells(work), REPORT_DDL)
    return gather(reports.toArrow())


def gather(reports: pa.Table) -> list[Outcome]:
    """The cells' reports in order of region and date. Raises GridsinkError where a worker has other libraries."""
    outcomes, libraries = [], library_versions()
    for text, figures in zip(reports["report"].to_pylist(), reports["figures"].to_pylist(), strict=True):
        it = json.loads(text)
        if it.pop("libraries") != libraries:
            raise GridsinkError(
                "the workers' libraries are not the driver's, so that results could not be told apart",
                f"region {it['region']}, {it['date']}",
                "give driver and workers the same environment (spark.python)",
            )
        parts = tuple(Part(**part) for part in it.pop("parts"))
        it["memory"], it["rejected"] = tuple(it["memory"]), tuple(it["rejected"])
        day = date.fromisoformat(it.pop("date"))
        size = len(text) + len(figures)
        outcomes.append(Outcome(**it, date=day, parts=parts, figures=figures, bytes_returned=size))
    return sorted(outcomes, key=lambda outcome: (outcome.region, outcome.date))
