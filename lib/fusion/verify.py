"""Checks the cache against the rows: cells calculated again and compared with what is kept of them."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lib.algorithm import figures
from lib.algorithm.formula import Formula
from lib.algorithm.operator import Operator
from lib.calculation import parts
from lib.calculation.local import Outcome
from lib.calculation.located import Selection
from lib.calculation.storage import filesystem
from lib.fusion.step import StepRun
from lib.tables import ARROW
from lib.tables.digest import of_rows, row_digests

if TYPE_CHECKING:
    from lib.job import JobContext


def verify(
    context: JobContext, operator: Operator | Formula, selection: Selection, sample: float, seed: int
) -> list[dict[str, Any]]:
    """Calculates a share `sample` of the cells that are current again, at least one, and compares bit for bit.

    Returns region, date, result ("equal" or "differs") and what differs; entries of cells that differ are forgotten.
    Nothing is committed to the tables.
    """
    step = StepRun(context, operator, selection)
    step.refresh()
    current = sorted(key for key, verdict in step.verdicts.items() if verdict.status == "current")
    if not current:
        return []
    chosen = random.Random(seed).sample(current, max(1, math.ceil(sample * len(current))))
    outcomes = step.calculate_again(chosen)
    try:
        kept = step.partials(chosen)
        rows = [_compare(step, it, kept.get((it.region, it.date))) for it in outcomes]
    finally:
        parts.discard(context.lake, [part for it in outcomes for part in it.parts])
    step.cache.forget([(row["region"], row["date"]) for row in rows if row["result"] == "differs"])
    return rows


def _compare(step: StepRun, it: Outcome, kept: bytes | None) -> dict[str, Any]:
    differs = []
    entry = step.verdicts[it.region, it.date].entry
    if entry is None or it.digest != entry.digest:
        differs.append("rows of the inputs")
    if kept is None or not figures.from_bytes(kept).equals(figures.from_bytes(it.figures)):
        differs.append("figures")
    for table in step.operator.outputs:
        files = [part.path for part in it.parts if part.table == table]
        if _digest(step, table, files) != _digest(step, table, step.cache.log(table).files(it.region, it.date)):
            differs.append(f"rows of {table}")
    result = "differs" if differs else "equal"
    return {"region": it.region, "date": it.date, "result": result, "what": ", ".join(differs)}


def _digest(step: StepRun, table: str, files: Any) -> str:
    """Of the rows in these files of a table, whatever their order."""
    system = filesystem(step.context.lake.path(table))
    digests: list[bytes] = []
    for path in files:
        rows: pa.Table = pq.read_table(path, filesystem=system, partitioning=None)
        names = [name for name in ARROW[table].names if name not in ("region", "date")]
        digests += row_digests(rows, names, ARROW[table])
    return of_rows(digests)
