"""Runs a formula over blocks of cells: workers hash the rows, Spark SQL aggregates those of cells not known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib.algorithm import figures
from lib.algorithm.formula import Formula, compute
from lib.calculation import frames, local
from lib.calculation.local import Block, Outcome
from lib.calculation.located import Plan
from lib.tables import Lake
from lib.tables.digest import cell_digest


def run(
    spark: SparkSession, lake: Lake, formula: Formula, plan: Plan, blocks: Sequence[Block], memory_bytes: int
) -> list[Outcome]:
    """Outcomes of the blocks' cells in order of region and date, as `lib.calculation.local.run` gives them."""
    cells = {(cell.region, cell.date): cell for cell in chain.from_iterable(blocks)}
    unknown = [
        some for block in blocks if (some := [cell for cell in block if plan.table not in cell.recorded])
    ]  # fmt: skip
    outcomes = {(it.region, it.date): it for it in local.run(spark, lake, formula, plan, unknown, memory_bytes, True)}
    for key, cell in cells.items():
        if key not in outcomes:
            digest = cell_digest(cell.recorded, cell.length_s)
            outcomes[key] = _outcome(*key, dict(cell.recorded), digest, digest in cell.known)
    begin = time.perf_counter()
    wanted = [key for key, it in outcomes.items() if not it.found and not it.missing_file]
    if wanted:
        files = chain.from_iterable(cells[key].files for key in wanted)
        rows = frames.of_files(spark, lake, plan.table, lake.snapshot(plan.table, plan.versions[plan.table]), files)
        regions, days = sorted({region for region, _ in wanted}), sorted({day for _, day in wanted})
        table = compute(spark, rows.where(F.col("region").isin(regions) & F.col("date").isin(days)), formula)
        seconds = (time.perf_counter() - begin) / len(wanted)
        for region, day in wanted:
            mask = pc.and_(pc.equal(table["region"], region), pc.equal(table["date"], pa.scalar(day)))
            partial = figures.to_bytes(table.filter(mask).drop_columns(["region", "date"]))
            count = cells[region, day].rows or 0
            outcomes[region, day] = replace(
                outcomes[region, day], figures=partial, rows_in=count, rows_out=count, bytes_returned=len(partial),
                seconds=outcomes[region, day].seconds + seconds,
            )  # fmt: skip
    return [outcomes[key] for key in sorted(outcomes)]


def _outcome(region: str, day: date, inputs: dict[str, str], digest: str, found: bool) -> Outcome:
    return Outcome(
        region=region, date=day, inputs=inputs, digest=digest, found=found, note=None, parts=(), rejected=(),
        figures=b"", rows_in=0, rows_out=0, rows_quarantined=0, bytes_read=0, bytes_written=0, bytes_returned=0,
        seconds=0.0, memory=(0, None), missing_file=None, failed=None,
    )  # fmt: skip
