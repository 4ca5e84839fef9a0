"""The result of a pipeline: the partials of its steps fused to one table, one row per region, period and group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import functions as F

from lib.algorithm import figures as partials
from lib.algorithm.formula import Formula, apply_finish, explained
from lib.calculation.parts import quoted, run_properties
from lib.tables import TABLES, Column, Lake, Table
from lib.tables.schema import REGION

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lib.algorithm.pipeline import Pipeline, ResultColumn, Step

Period = Literal["day", "month", "all"]
Cell = tuple[str, date]

ALL_DAYS = date(1970, 1, 1)
"""`date` of the one period that has all days: the same whatever days the lake has."""


def period_of(day: date, period: Period) -> date:
    """First day of the period that a day belongs to."""
    return {"day": day, "month": day.replace(day=1), "all": ALL_DAYS}[period]


def result_table(pipeline: Pipeline) -> Table:
    """The table that the pipeline writes. The pipeline must have been checked with Spark: columns have its types."""
    spec = pipeline.spec
    keys = ("region", "date", *spec.by)
    return Table(
        layer="gold",
        name=f"pipeline_{spec.id}",
        comment=f"{spec.title}; result of pipeline {spec.id}",
        key=keys,
        partition_by=("region", "date"),
        columns=(
            REGION,
            Column("date", "date", _PERIOD_COMMENT[spec.period]),
            *(_group_column(pipeline, name) for name in spec.by),
            *(Column(name, pipeline.types[name], _comment(column)) for name, column in spec.result.items()),
            Column("cells", "int", "days of the period that are in the result"),
            Column("cells_expected", "int", "days of the period that there are"),
            Column("complete", "boolean", "whether all days of the period are in"),
        ),
    )


def fuse(
    spark: SparkSession,
    pipeline: Pipeline,
    figures: Mapping[str, pa.Table],
    expected: Mapping[Cell, int],
    cells: Collection[Cell] | None = None,
) -> pa.Table:
    """Rows of the result table, sorted by key; the same bits for the same figures.

    figures: step id -> partials of any number of cells (columns region, date, the step's keys, its figures), in any
    order. expected: (region, first day of the period) -> cells that the period has. cells: those whose partials of all
    steps are among `figures`; if not given, those of which each step has at least one row.

    Raises GridsinkError where an expression fails on the values.
    """
    table, spec = result_table(pipeline), pipeline.spec
    if cells is None:
        cells = set.intersection(*(_cells(figures.get(step.id)) for step in pipeline.steps))
    wide = _wide(pipeline, [_merged(pipeline, step, figures.get(step.id)) for step in pipeline.steps])
    frame = spark.createDataFrame(wide)
    for step in pipeline.steps:
        if isinstance(step.operator, Formula):
            frame = _finished(frame, step.id, step.operator)
    names = table.schema.fieldNames()[: len(table.key)]
    expressions = [
        f"CAST({column.expression} AS {pipeline.types[name]}) AS {_name(name)}" for name, column in spec.result.items()
    ]
    with explained(f"{pipeline.path}", _expressions(pipeline)):
        rows = frame.selectExpr(*map(_name, names), *expressions).toArrow()
    done = Counter((region, period_of(day, spec.period)) for region, day in cells)
    periods = list(zip(rows["region"].to_pylist(), rows["date"].to_pylist(), strict=True))
    have, want = [done[it] for it in periods], [expected.get(it, 0) for it in periods]
    whole = [a == b for a, b in zip(have, want, strict=True)]
    for name, values in {"cells": have, "cells_expected": want, "complete": whole}.items():
        rows = rows.append_column(name, pa.array(values, table.arrow.field(name).type))
    return rows.cast(table.arrow).sort_by([(name, "ascending") for name in names])


def commit(lake: Lake, pipeline: Pipeline, rows: pa.Table, periods: Collection[Cell], run_id: str = "") -> int:
    """Makes `rows`, sorted by key, the only ones of the (region, first day) in `periods`, in one commit a region.

    The table is made if absent; periods that hold equal rows already are not written again. Where a commit meets
    another writer's it is tried again, at most 5 times. Returns the table's version. Raises LakeError where the table
    on disk has other columns.
    """
    table = result_table(pipeline)
    lake.create(table)
    lake.check(table)
    for region in sorted({region for region, _ in periods}):
        days = sorted(day for it, day in periods if it == region)
        mask = pc.and_(pc.equal(rows["region"], region), pc.is_in(rows["date"], value_set=pa.array(days, pa.date32())))
        _replace(lake, table, rows.filter(mask), region, days, run_id)
    return lake.snapshot(table).version()


def replace_days(lake: Lake, table: Table, rows: pa.Table, region: str, run_id: str = "") -> None:
    """Makes `rows`, sorted by key, the region's only ones in a table partitioned by (region, date); see `commit`."""
    lake.create(table)
    lake.check(table)
    found = pa.table(lake.snapshot(table).get_add_actions(flatten=True)).to_pylist()
    held = {it["partition.date"] for it in found if it["partition.region"] == region}
    days = sorted({*rows["date"].to_pylist(), *held})
    if days:
        _replace(lake, table, rows, region, days, run_id)


def _merged(pipeline: Pipeline, step: Step, partial: pa.Table | None) -> pa.Table:
    """The step's figures per region, period and group, folded in the order of cells."""
    operator, by = step.operator, pipeline.spec.by
    keys = ["region", "date", *by]
    schema = partials.schema(_key_schema(pipeline), operator.figures)
    if partial is None or not partial.num_rows:
        return schema.empty_table()
    order = ["region", "date", *(name for name in step.keys if name not in ("region", "date"))]
    ordered = partial.sort_by([(name, "ascending") for name in order])
    days = [period_of(day, pipeline.spec.period) for day in ordered["date"].to_pylist()]
    index = ordered.schema.get_field_index("date")
    ordered = ordered.set_column(index, "date", pa.array(days, pa.date32())).select(schema.names).cast(schema)
    return partials.merge([ordered], keys, operator.figures)


def _wide(pipeline: Pipeline, merged: list[pa.Table]) -> pa.Table:
    """Full outer join on the keys (null equals null); a step's figures and parameters are a struct named by its id."""
    keys = ["region", "date", *pipeline.spec.by]
    rows = pa.concat_tables(
        [
            table.select(keys).append_column(f"row {step.id}", pa.array(range(table.num_rows), pa.int64()))
            for step, table in zip(pipeline.steps, merged, strict=True)
        ],
        promote_options="default",
    )
    joined = rows.group_by(keys, use_threads=False).aggregate([(f"row {step.id}", "max") for step in pipeline.steps])
    wide = joined.select(keys)
    for step, table in zip(pipeline.steps, merged, strict=True):
        columns = {name: table[name].combine_chunks() for name in step.operator.figures}
        columns |= {name: pa.repeat(pa.scalar(value), table.num_rows) for name, value in step.parameters.items()}
        structs = pa.StructArray.from_arrays(list(columns.values()), list(columns))
        wide = wide.append_column(step.id, structs.take(joined[f"row {step.id}_max"].combine_chunks()))
    return wide


def _finished(frame: DataFrame, step: str, formula: Formula) -> DataFrame:
    """The step's merged figures replaced by what the formula makes of them; null where the step has no rows."""
    others = F.struct(*(name for name in frame.columns if name != step))
    flat = frame.select(others.alias("_others"), F.col(step).isNotNull().alias("_there"), f"{step}.*")
    made = F.when(F.col("_there"), F.struct(*formula.types))
    return apply_finish(flat, formula).select("_others.*", made.alias(step))


def _expressions(pipeline: Pipeline) -> dict[str, str]:
    """Key in the pipeline's file -> expression."""
    found = {f"result.{name}": column.expression for name, column in pipeline.spec.result.items()}
    for step in pipeline.steps:
        if isinstance(step.operator, Formula):
            for name, column in step.operator.spec.finish.items():
                found[f"steps.{step.id}.formula.finish.{name}"] = column.expression
    return found


def _replace(lake: Lake, table: Table, rows: pa.Table, region: str, days: list[date], run_id: str) -> None:
    def write(snapshot: DeltaTable) -> None:
        before, after = _by_day(_present(snapshot, table, region, days)), _by_day(rows)
        changed = [day for day in days if before.get(day) != after.get(day)]
        if changed:
            within = ", ".join(f"'{day}'" for day in changed)
            write_deltalake(
                snapshot, rows.filter(pc.is_in(rows["date"], pa.array(changed, pa.date32()))), mode="overwrite",
                predicate=f"region = {quoted(region)} AND date IN ({within})", commit_properties=run_properties(run_id),
            )  # fmt: skip

    lake.commit(table, write)


def _present(snapshot: DeltaTable, table: Table, region: str, days: list[date]) -> pa.Table:
    where: Any = [("region", "=", region), ("date", "in", [day.isoformat() for day in days])]
    found = pa.table(snapshot.to_pyarrow_table(partitions=where)).select(table.arrow.names).cast(table.arrow)
    return found.sort_by([(name, "ascending") for name in table.key])


def _by_day(rows: pa.Table) -> dict[date, pa.Table]:
    """Rows of each day, sorted by day. Doubles are integers of the same bits: NaN equals itself."""
    rows = rows.combine_chunks()
    for index, field in enumerate(rows.schema):
        if field.type == pa.float64():
            bits = [chunk.view(pa.int64()) for chunk in rows.column(index).chunks]
            rows = rows.set_column(index, field.name, pa.chunked_array(bits, pa.int64()))
    found, first = {}, 0
    for day, count in sorted(Counter(rows["date"].to_pylist()).items()):
        found[day], first = rows.slice(first, count), first + count
    return found


_PERIOD_COMMENT = {
    "day": "civil day of the result",
    "month": "first day of the result's month",
    "all": f"{ALL_DAYS}: the result has all days",
}


def _group_column(pipeline: Pipeline, name: str) -> Column:
    """The column as its table declares it."""
    found = (column for step in pipeline.steps for column in TABLES[step.operator.table].columns)
    return next(column for column in found if column.name == name)


def _key_schema(pipeline: Pipeline) -> pa.Schema:
    table = result_table(pipeline)
    return pa.schema([table.arrow.field(name) for name in table.key])


def _comment(column: ResultColumn) -> str:
    words = ", ".join(part for part in (column.unit, column.comment) if part)
    return f"{words}: {column.expression}" if words else column.expression


def _cells(partial: pa.Table | None) -> set[Cell]:
    if partial is None or not partial.num_rows:
        return set()
    distinct = partial.select(["region", "date"]).group_by(["region", "date"]).aggregate([])
    return set(zip(distinct["region"].to_pylist(), distinct["date"].to_pylist(), strict=True))


def _name(name: str) -> str:
    return f"`{name}`"
