"""Formulas: operators given by Spark SQL expressions alone, aggregated to partials that merge like any operator's."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import functions as F
from pyspark.sql import types as t

from lib.algorithm import figures
from lib.algorithm.expression import Analyser, Call, Refused, kind, message, quiet
from lib.algorithm.operator import Figure
from lib.algorithm.spec import FormulaSpec, ResultColumn
from lib.errors import GridsinkError
from lib.tables import ARROW, SCHEMAS, TABLES

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

__all__ = ["Formula", "FormulaError", "FormulaSpec", "ResultColumn", "analyse", "apply_finish", "compute"]

CELL = ("region", "date")
_LAYERS = ("silver", "gold")
_KEY_TYPES = ("string", "bigint", "date", "boolean")


class FormulaError(GridsinkError):
    """A formula that Spark's analyser or the rules of merging refuse; `problems` holds (key in the spec, sentence)."""

    exit_code = 2

    def __init__(self, place: str, problems: list[tuple[str, str]]) -> None:
        lines = "\n".join(f"  - {key}: {problem}" for key, problem in problems)
        super().__init__(
            f"the formula cannot be used:\n{lines}", place, "docs/formulas.md says what is allowed, and why"
        )
        self.problems = problems


@dataclass(frozen=True)
class Formula:
    """What planning needs of a formula, named as in `lib.algorithm.operator.Operator`.

    The partial of a cell has one row per distinct `by`. `columns` are those of `table` that the expressions and `by`
    read, sorted, without region and date, which every cell has. `figures` are what a partial keeps: an aggregate under
    its own name, a mean as `<name>__sum` and `<name>__count`. `types` are those of what `apply_finish` gives, by name,
    as Spark SQL names. `place` says where the formula is written. One that was not `checked` (no Spark at hand) has
    neither columns nor figures and cannot be calculated.
    """

    spec: FormulaSpec
    place: str = ""
    columns: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    calls: Mapping[str, Call] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
    checked: bool = False

    name: ClassVar[str] = "formula"
    version: ClassVar[int] = 1
    group: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[tuple[str, ...]] = ()
    side: ClassVar[None] = None
    outputs: ClassVar[tuple[str, ...]] = ()
    engine_modules: ClassVar[tuple[str, ...]] = ("lib.calculation.formulas", "lib.calculation.scan")

    @property
    def table(self) -> str:
        return self.spec.table

    @property
    def by(self) -> tuple[str, ...]:
        return tuple(self.spec.by)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a partial depends on besides rows and sources; `finish` is applied to merged figures."""
        return self.spec.model_dump(mode="json", exclude={"finish"}) | {"engine": self.engine}


def analyse(spark: SparkSession, spec: FormulaSpec, where: str = "") -> Formula:
    """The formula of a spec, every expression checked by Spark's analyser. Raises FormulaError with all problems."""
    problems = check_names(spec)
    if "table" in dict(problems):
        raise FormulaError(where, problems)
    schema = SCHEMAS[spec.table]
    if spark.conf.get("spark.sql.ansi.enabled") != "true":
        problems.append(("", "spark.sql.ansi.enabled must be true: without it an overflow would pass unnoticed"))
    rows = Analyser(spark, schema)
    read = set(spec.by)
    types = {f.name: f.dataType for f in schema}

    @contextlib.contextmanager
    def told(key: str) -> Iterator[None]:
        try:
            yield
        except Refused as e:
            problems.append((key, str(e)))

    if spec.where is not None:
        with told("where"):
            condition = rows.check(spec.where)
            read |= condition.columns
            if not isinstance(condition.type, t.BooleanType):
                raise Refused(f"is {condition.type.simpleString()}, not a condition")
    for name, text in spec.map.items():
        types[name] = t.NullType()
        with told(f"map.{name}"):
            value = rows.check(text)
            read |= value.columns
            types[name] = value.type
    calls: dict[str, Call] = {}
    kept: dict[str, Figure] = {}
    results: dict[str, str] = {}
    refused = {key.removeprefix("map.") for key, _ in problems}
    for name, text in spec.aggregates.items():
        with told(f"aggregates.{name}"):
            call = calls[name] = rows.call(text)
            if call.argument is None:
                kept |= _figures(name, call, t.LongType())
            elif call.argument not in types:
                near = difflib.get_close_matches(call.argument, types, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise Refused(f"{call.argument} is neither in map nor a column of {spec.table}{hint}")
            elif call.argument not in refused:
                read |= {call.argument} - set(spec.map)
                kept |= _figures(name, call, types[call.argument])
    used = {call.argument for call in calls.values()}
    if len(calls) == len(spec.aggregates):
        problems += [
            (f"map.{name}", "is aggregated nowhere: use it or drop it") for name in spec.map if name not in used
        ]
    if problems:
        raise FormulaError(where, problems)
    for name, call in calls.items():
        results[name] = "double" if call.function == "mean" else kept[name].type
    fields = [t.StructField(name, types[name]) for name in spec.by]
    fields += [t.StructField(name, _type(results[name])) for name in calls]
    merged = Analyser(spark, t.StructType(fields))
    for name, column in spec.finish.items():
        with told(f"finish.{name}.expression"):
            results[name] = kept_type(merged.check(column.expression).type)
    if problems:
        raise FormulaError(where, problems)
    columns = tuple(sorted(read - set(CELL)))
    return Formula(spec, where, columns, kept, calls, results, _engine(spark), checked=True)


def kept_type(data_type: t.DataType) -> str:
    """Type that a result of `data_type` is kept as, a Spark SQL name. Raises Refused where there is none."""
    kept = kind(data_type)
    if kept is None:
        raise Refused(f"is {data_type.simpleString()}; a result is a number, timestamp, date, boolean or string")
    return kept


def compute(spark: SparkSession, rows: DataFrame, formula: Formula) -> pa.Table:
    """The partials of the cells that `rows` belong to: columns region, date, `by` (sorted by these) and `figures`.

    rows: all rows of each cell, with the formula's columns, region and date. The bits of the result depend on the rows
    alone, neither on their order nor on files or tasks. A cell none of whose rows fulfils `where` has no row in the
    result. Raises GridsinkError where an expression fails on a row.
    """
    with explained(formula.place, _expressions(formula.spec)):
        table = query(spark, rows, formula).toArrow()
    keys = [*CELL, *formula.by]
    schema = figures.schema(pa.schema([ARROW[formula.table].field(name) for name in keys]), formula.figures)
    return table.select(schema.names).cast(schema).sort_by([(name, "ascending") for name in keys])


def query(spark: SparkSession, rows: DataFrame, formula: Formula) -> DataFrame:
    """What `compute` runs."""
    if not formula.checked:
        raise GridsinkError("the formula was not checked", formula.place, "load its pipeline with a Spark session")
    spec, keys = formula.spec, [*CELL, *formula.by]
    wanted = sorted({call.argument for call in formula.calls.values() if call.argument is not None})
    inputs = {name: f"_{i}" for i, name in enumerate(wanted)}
    weighed = {call.argument for call in formula.calls.values() if call.function != "count"}
    # Spark sums a sorted child row by row, with no hash table that could spill and be added up in another order.
    spark.conf.set("spark.sql.execution.replaceHashWithSortAgg", "true")
    chosen = rows if spec.where is None else rows.where(spec.where)
    mapped = chosen.select(*keys, *(_input(spec, name, name in weighed).alias(inputs[name]) for name in wanted))
    ordered = mapped.repartition(*CELL).sortWithinPartitions(*keys, *inputs.values())
    aggregates = [
        column.cast(formula.figures[name].type).alias(name)
        for aggregate, call in formula.calls.items()
        for name, column in _aggregate(aggregate, call, inputs, mapped.schema).items()
    ]
    return ordered.groupBy(*keys).agg(*aggregates)


def finish_columns(formula: Formula) -> dict[str, str]:
    """Name -> SQL expression of every aggregate over the figures kept, then of `finish` over the aggregates."""
    means = {name for name, call in formula.calls.items() if call.function == "mean"}
    aggregates = {
        name: f"{name}__sum / nullif({name}__count, 0)" if name in means else f"`{name}`" for name in formula.calls
    }
    return aggregates | {name: column.expression for name, column in formula.spec.finish.items()}


def apply_finish(merged: DataFrame, formula: Formula) -> DataFrame:
    """Merged figures made into results: all other columns of `merged`, then the aggregates, then those of `finish`.

    An expression that fails on a row does so when the result is read: read it inside `explained`.
    """
    others = [name for name in merged.columns if name not in formula.figures]
    columns = {
        name: F.expr(text).cast(formula.types[name]).alias(name) for name, text in finish_columns(formula).items()
    }
    aggregated = merged.select(*others, *(columns[name] for name in formula.calls))
    return aggregated.select("*", *(columns[name] for name in formula.spec.finish))


@contextlib.contextmanager
def explained(place: str, expressions: Mapping[str, str]) -> Iterator[None]:
    """Tells what Spark raises inside as a GridsinkError that names the expression (of key -> SQL text)."""
    try:
        with quiet():
            yield
    except PySparkException as e:
        if e.getCondition() is None:
            raise
        fragments = [context.fragment() for context in e.getQueryContext() or [] if context.contextType().name == "SQL"]
        guilty = [key for key, text in expressions.items() if any(f and f in text for f in fragments)]
        where = " ".join(part for part in (place, " or ".join(guilty)) if part)
        remedy = "guard it in the expression (try_divide, try_cast, nullif, if) or leave such rows out with `where`"
        raise GridsinkError(f"an expression fails: {message(e)}", where, remedy) from e


def _check_table(spec: FormulaSpec) -> list[tuple[str, str]]:
    usable = sorted(n for n, table in TABLES.items() if table.layer in _LAYERS and table.partition_by == CELL)
    table = TABLES.get(spec.table)
    if spec.table in usable:
        return []
    if table is None:
        near = difflib.get_close_matches(spec.table, usable, 1)
        hint = f"did you mean {near[0]}?" if near else f"tables are {', '.join(usable)}"
        return [("table", f"there is no table {spec.table}; {hint}")]
    reason = f"is partitioned by ({', '.join(table.partition_by)}), and a formula runs on one (region, date) at a time"
    if table.layer not in _LAYERS:
        reason = f"is neither silver nor gold: layer {table.layer} is not for reading"
    return [("table", f"{spec.table} {reason}; tables that can be used are {', '.join(usable)}")]


def check_names(spec: FormulaSpec) -> list[tuple[str, str]]:
    """What is wrong with the spec's table, keys and names, as FormulaError tells it; needs no Spark."""
    problems = _check_table(spec)
    if problems:
        return problems
    schema = SCHEMAS[spec.table]
    for i, name in enumerate(spec.by):
        key = f"by.{i}"
        if name in CELL:
            problems.append((key, f"{name} is always there: a formula runs on one (region, date) at a time"))
        elif name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append((key, f"{name} is no column of {spec.table}{hint}"))
        elif kind(schema[name].dataType) not in _KEY_TYPES:
            problems.append(
                (key, f"{name} is {schema[name].dataType.simpleString()}; rows are grouped by names and whole numbers")
            )
        if name in spec.by[:i]:
            problems.append((key, f"{name} is given twice"))
    taken: dict[str, str] = dict.fromkeys((*CELL, *spec.by), "a key of the result")
    for part in ("aggregates", "finish"):
        for name in getattr(spec, part):
            if name in taken:
                problems.append((f"{part}.{name}", f"{name} is {taken[name]} already; choose another name"))
            taken[name] = "an aggregate"
    return problems


def _figures(name: str, call: Call, data_type: t.DataType) -> dict[str, Figure]:
    """What a partial keeps of one aggregate. Raises Refused where its values cannot be aggregated so."""
    kept, text = kind(data_type), f"{call.function}({call.argument or '*'})"
    if call.function == "count":
        return {name: Figure("sum", "bigint", "", text)}
    given = f"{call.argument} is {data_type.simpleString()}"
    if call.function in ("min", "max"):
        if kept is None or kept == "string":
            raise Refused(f"{given}; {call.function} takes a number, timestamp, date or boolean")
        return {name: Figure("min" if call.function == "min" else "max", kept, "", text)}  # type: ignore[arg-type]
    if kept not in ("bigint", "double"):
        raise Refused(f"{given}; {call.function} takes a number: map it to one, such as if(condition, 1, 0)")
    if call.function == "sum":
        return {name: Figure("sum", kept, "", text)}  # type: ignore[arg-type]
    return {
        f"{name}__sum": Figure("sum", "double", "", f"sum of {text}"),
        f"{name}__count": Figure("sum", "bigint", "", f"count of {text}"),
    }


def _input(spec: FormulaSpec, name: str, weighed: bool) -> Column:
    value = F.expr(spec.map.get(name, f"`{name}`"))
    return value if weighed else F.when(value.isNotNull(), True)  # of what is only counted, nothing large moves


def _aggregate(name: str, call: Call, inputs: Mapping[str, str], schema: t.StructType) -> dict[str, Column]:
    """Figure -> aggregate over the mapped rows.

    Extrema pass over NaN and know one zero only, sums one NaN only: so do merged partials, in any order.
    """
    if call.argument is None:
        return {name: F.count(F.lit(1))}
    inner = inputs[call.argument]
    fraction = kind(schema[inner].dataType) == "double"
    value = F.col(inner).cast("double") if fraction or call.function == "mean" else F.col(inner)
    total = F.nanvl(F.sum(value), F.lit(float("nan"))) if fraction else F.sum(value)
    if call.function == "count":
        return {name: F.count(value)}
    if call.function == "sum":
        return {name: total}
    if call.function == "mean":
        return {f"{name}__sum": total, f"{name}__count": F.count(value)}
    extremum = F.min if call.function == "min" else F.max
    return {name: extremum(F.nanvl(value, F.lit(None)) + F.lit(0.0) if fraction else value)}


def _expressions(spec: FormulaSpec) -> dict[str, str]:
    where = {} if spec.where is None else {"where": spec.where}
    return where | {f"map.{name}": text for name, text in spec.map.items()}


def _type(name: str) -> t.DataType:
    return t.DataType.fromDDL(name)


def _engine(spark: SparkSession) -> str:
    """What of the session decides an expression's value."""
    zone, case = (spark.conf.get(f"spark.sql.{key}") for key in ("session.timeZone", "caseSensitive"))
    return f"spark {spark.version}, {zone}, case-sensitive {case}"
