"""The way through Spark's own Delta scan, where files alone do not tell the truth. Slower, and the same results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import groupby
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.algorithm.formula import Formula
from lib.algorithm.operator import Operator, inputs
from lib.calculation.beside import beside_rows
from lib.calculation.located import Cell, File, Plan, Selection
from lib.calculation.reading import Block, Closed, Event, Hashing, Opened, group
from lib.calculation.side import side_rows
from lib.calculation.storage import filesystem
from lib.calculation.worker import REPORT_DDL, Work, calculate
from lib.tables import Lake

_log = logging.getLogger(__name__)
_ROWS_PER_BATCH = "8"


def complete(
    spark: SparkSession, lake: Lake, operator: Operator | Formula, plan: Plan, length_s: Callable[[str, date], int],
    staging: str, selection: Selection,
) -> Plan:  # fmt: skip
    """A plan whose files could not be used, made usable: cells found by Spark, rows of other tables staged as files.

    staging: folder for those rows, which every worker must be able to open.
    """
    for reason in plan.reasons.values():
        _log.warning("%s: reading it through Spark's Delta scan", reason)
    side_files, beside_files = dict(plan.side_files), dict(plan.beside_files)
    if plan.side in plan.reasons:
        plan = replace(plan, side_root=f"{staging}/side")
        rows = lake.read(spark, plan.side, plan.versions[plan.side]).select("region", *inputs(operator)[plan.side])
        for (region,), files in _staged(rows, ("region",), plan.side_root).items():
            side_files[region] = files
    if plan.beside in plan.reasons:
        plan = replace(plan, beside_root=f"{staging}/beside")
        rows = lake.read(spark, plan.beside, plan.versions[plan.beside])
        rows = _selected(rows.select("region", "date", *inputs(operator)[plan.beside]), selection)
        for (region, day), files in _staged(rows, ("region", "date"), plan.beside_root).items():
            beside_files[region, date.fromisoformat(day)] = files
    if plan.table in plan.reasons:
        found = lake.read(spark, plan.table, plan.versions[plan.table]).select("region", "date").distinct().collect()
        days = sorted((r["region"], r["date"]) for r in found if selection.wants(r["region"], r["date"]))
        plan = replace(plan, cells=tuple(Cell(region, day, length_s(region, day), (), ()) for region, day in days))
    cells = tuple(
        replace(c, side_files=side_files.get(c.region, ()), beside_files=beside_files.get((c.region, c.date), ()))
        for c in plan.cells
    )
    return replace(plan, cells=cells)


def _selected(rows: DataFrame, selection: Selection) -> DataFrame:
    if selection.regions:
        rows = rows.where(F.col("region").isin(*selection.regions))
    if selection.first is not None:
        rows = rows.where(F.col("date") >= F.lit(selection.first))
    return rows if selection.last is None else rows.where(F.col("date") <= F.lit(selection.last))


def _staged(rows: DataFrame, by: tuple[str, ...], folder: str) -> dict[tuple[str, ...], tuple[File, ...]]:
    """The rows written as files, which are told by the values of the columns `by`."""
    rows.write.mode("overwrite").partitionBy(*by).option("compression", "uncompressed").parquet(folder)
    found: dict[tuple[str, ...], tuple[File, ...]] = {}
    for info in sorted(filesystem(folder).get_file_info(fs.FileSelector("", recursive=True)), key=lambda it: it.path):
        if info.type == fs.FileType.File and info.path.endswith(".parquet"):
            key = tuple(unquote(part.partition("=")[2]) for part in info.path.split("/")[:-1])
            found[key] = (*found.get(key, ()), File(info.path, info.size))
    return found


def run(spark: SparkSession, lake: Lake, work: Work, plan: Plan, chosen: Sequence[Cell], tasks: int) -> DataFrame:
    """Reports of the chosen cells, their rows read by Spark and brought together by cell."""
    cells = {(cell.region, cell.date): cell for cell in chosen}
    regions, days = sorted({region for region, _ in cells}), sorted({day for _, day in cells})
    operator = work.operator
    rows = (
        lake.read(spark, plan.table, plan.versions[plan.table])
        .where(F.col("region").isin(regions) & F.col("date").isin(days))
        .select("region", "date", *inputs(operator)[operator.table])
        .repartition(min(tasks, len(cells)), "region", "date")
        .sortWithinPartitions("region", "date", *operator.group, *operator.key)
    )
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", _ROWS_PER_BATCH)  # rows of megabytes
    return rows.mapInArrow(run_rows(work, cells), REPORT_DDL)


def run_rows(
    work: Work, cells: Mapping[tuple[str, date], Cell]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The task function for rows of the table itself, sorted by cell, group and key."""

    def events(batches: Iterable[pa.RecordBatch]) -> Iterator[Event]:
        for at, of_cell in groupby(_rows(batches, work.operator.group), lambda row: row[0][:2]):
            if at in cells:
                yield from read_rows(work, cells[at], of_cell)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from calculate(work, events(batches))

    return run


def read_rows(work: Work, cell: Cell, rows: Iterable[tuple[tuple, pa.Table]]) -> Iterator[Event]:
    """Events of a cell whose rows come from Spark; the group's rows are brought together."""
    operator, read = work.operator, 0
    side = side_rows(operator, work.side_root, cell.side_files)
    second = beside_rows(operator, work.beside_root, cell.beside_files)
    hashing = Hashing(operator, cell)
    yield Opened(cell, side)
    hashing.side(side)
    hashing.beside(second)
    for key, some in groupby(rows, lambda row: row[0]):
        block = pa.concat_tables([row for _, row in some])
        read += block.nbytes
        hashing.add(block)
        if not work.hash_only:
            yield group(operator, key[2:], block.select(list(operator.key)), second)
            yield Block(block)
    inputs = hashing.finish()
    # Rows come by once: what is found to be known has been calculated by now, and is told as calculated.
    yield Closed(inputs, bytes_read=read)


def _rows(batches: Iterable[pa.RecordBatch], group: Sequence[str]) -> Iterator[tuple[tuple, pa.Table]]:
    """Each row, with region, date and its group's key."""
    for batch in batches:
        table = pa.Table.from_batches([batch])
        keys = list(zip(*(table.column(name).to_pylist() for name in ("region", "date", *group)), strict=True))
        for i, key in enumerate(keys):
            yield key, table.slice(i, 1)
