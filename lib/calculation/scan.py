"""The way through Spark's own Delta scan, where files alone do not tell the truth. Slower, and the same results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import groupby

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.algorithm.operator import Operator
from lib.calculation.located import Cell, File, Plan, wanted
from lib.calculation.parts import WriteFailed
from lib.calculation.storage import filesystem
from lib.calculation.worker import REPORT_DDL, CellRun
from lib.tables import Lake

_log = logging.getLogger(__name__)
_ROWS_PER_BATCH = "8"


def complete(
    spark: SparkSession,
    lake: Lake,
    operator: Operator,
    plan: Plan,
    length_s: Callable[[str, date], int],
    staging: str,
    regions: Sequence[str] = (),
    first: date | None = None,
    last: date | None = None,
) -> Plan:
    """A plan whose files could not be used, made usable: cells found by Spark, side rows staged as files.

    staging: folder for the side rows, which every worker must be able to open.
    """
    for reason in plan.reasons.values():
        _log.warning("%s: reading it through Spark's Delta scan", reason)
    side_files = dict(plan.side_files)
    if plan.side in plan.reasons:
        side = lake.read(spark, plan.side, plan.versions[plan.side])
        chosen = side.select("region", *operator.group, operator.side.digest, *operator.side.columns)
        chosen.write.mode("overwrite").partitionBy("region").option("compression", "uncompressed").parquet(staging)
        plan = replace(plan, side_root=staging)
        every = _parquet_files(staging)
        names = [row["region"] for row in side.select("region").distinct().collect()]
        # A region's folder is Spark's to name; workers look their rows up by key, so all files serve every region.
        side_files = dict.fromkeys(names, every)
    if plan.table in plan.reasons:
        found = lake.read(spark, plan.table, plan.versions[plan.table]).select("region", "date").distinct().collect()
        days = sorted((r["region"], r["date"]) for r in found if wanted(r["region"], r["date"], regions, first, last))
        cells = tuple(Cell(region, day, length_s(region, day), (), side_files.get(region, ())) for region, day in days)
        return replace(plan, cells=cells)
    return replace(plan, cells=tuple(replace(c, side_files=side_files.get(c.region, ())) for c in plan.cells))


def run(
    spark: SparkSession, lake: Lake, operator: Operator, plan: Plan, roots: Mapping[str, str], tasks: int
) -> DataFrame:
    """Reports of the plan's cells, their rows read by Spark and brought together by cell."""
    cells = {(cell.region, cell.date): cell for cell in plan.cells}
    regions, days = sorted({region for region, _ in cells}), sorted({day for _, day in cells})
    rows = (
        lake.read(spark, plan.table, plan.versions[plan.table])
        .where(F.col("region").isin(regions) & F.col("date").between(days[0], days[-1]))
        .select("region", "date", *operator.columns)
        .repartition(min(tasks, len(cells)), "region", "date")
        .sortWithinPartitions("region", "date", *operator.group, *operator.key)
    )
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", _ROWS_PER_BATCH)  # rows of megabytes
    work = run_rows(operator, cells, plan.side_root, roots)
    return rows.mapInArrow(work, REPORT_DDL)


def run_rows(
    operator: Operator, cells: Mapping[tuple[str, date], Cell], side_root: str, roots: Mapping[str, str]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The task function for rows of the table itself, sorted by cell, group and key."""

    def key_of(row: pa.Table) -> tuple:
        return tuple(row.column(name)[0].as_py() for name in ("region", "date", *operator.group))

    def single_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            for i in range(table.num_rows):
                yield table.slice(i, 1)

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        groups = groupby(single_rows(batches), key_of)
        for at, of_cell in groupby(groups, lambda item: item[0][:2]):
            if at not in cells:
                continue
            run = CellRun(operator, cells[at], side_root, roots)
            try:
                for key, rows in of_cell:
                    block = pa.concat_tables(list(rows))
                    run.bytes_read += block.nbytes
                    run.add_group(key[2:], [partial(_same, block)], block)
            except WriteFailed as e:
                yield run.report(failed=str(e))
                continue
            except BaseException:
                run.writer.discard()
                raise
            yield run.report()

    return work


def _same(block: pa.Table) -> pa.Table:
    return block


def _parquet_files(root: str) -> tuple[File, ...]:
    infos = filesystem(root).get_file_info(fs.FileSelector("", recursive=True))
    found = [File(i.path, i.size) for i in infos if i.type == fs.FileType.File and i.path.endswith(".parquet")]
    return tuple(sorted(found, key=lambda file: file.path))
