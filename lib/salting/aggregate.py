"""Aggregations by key that give the same with and without salting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lib.errors import GridsinkError
from lib.salting import keys as K
from lib.salting import placement
from lib.salting.placement import PLACE
from lib.salting.plan import SaltPlan

Aggregation = tuple[Any, ...]  # ("sum", "energy_wh"), ("count", "*"), ("percentile", "u_v", 0.95)

# Spark combines these before its shuffle, so that a reducer gets at most one row per key and map task.
COMBINED: dict[str, Callable[[Column], Column]] = {
    "count": F.count, "sum": F.sum, "mean": F.avg, "min": F.min, "max": F.max,
}  # fmt: skip
VALUES = ("collect_set", "count_distinct", "median", "percentile")
REFUSED = {
    "collect_list": "the order of a list is not defined; use collect_set, or salted_group_map with its own order",
    "first": "which row is first is not defined; use min or max",
    "last": "which row is last is not defined; use min or max",
    "mode": "ties have no defined winner; count the values with salted_group_map",
    "stddev": "its parts cancel when merged, beyond 1e-12; take count, sum and sum of squares in decimals",
    "variance": "its parts cancel when merged, beyond 1e-12; take count, sum and sum of squares in decimals",
    "approx_percentile": "parts of a sketch give another answer than the whole; percentile is exact",
    "approx_count_distinct": "parts of a sketch give another answer than the whole; count_distinct is exact",
}
_NUMBER, _VALUE, _PART = f"{K.RESERVED}number", f"{K.RESERVED}value", f"{K.RESERVED}part"


@dataclass(frozen=True)
class _Wanted:
    name: str
    kind: str
    column: str
    share: float = 0.5


def salted_aggregate(
    df: DataFrame, keys: Sequence[str], aggs: Mapping[str, Aggregation], *, row_key: Sequence[str], plan: SaltPlan
) -> DataFrame:
    """One row per key: its columns, then one column per entry of `aggs`.

    aggs: name -> (kind, column), kind one of count (also of "*"), sum, mean, min, max, collect_set (sorted),
    count_distinct, median; or name -> ("percentile", column, share), exact. row_key: columns that identify a row.

    Counts, extrema and exact sums take Spark's own aggregation, which combines before its shuffle. Floats are summed
    part by part in the order of `row_key`, then part after part: the same plan gives the same bits. Kinds that need the
    values count them part by part first, one pass per such column. Raises GridsinkError for what cannot be split.
    """
    wanted = [_parse(name, spec) for name, spec in aggs.items()]
    if not wanted:
        raise GridsinkError("nothing to aggregate", ", ".join(keys), "name at least one aggregation")
    clash = [it.name for it in wanted if it.name in keys or it.name.startswith(K.RESERVED)]
    if clash:
        raise GridsinkError(
            "a result has the name of a key, or a reserved one", ", ".join(clash), "choose another name"
        )
    placement.check(df, keys, plan, row_key, sorted({it.column for it in wanted} - {"*"}))
    floats = [it for it in wanted if it.kind in ("sum", "mean") and _is_float(df, it.column)]
    exact = [it for it in wanted if it.kind in COMBINED and it not in floats]
    results = []
    if exact:
        results.append(df.groupBy(*K.columns(keys)).agg(*(_combined(it) for it in exact)))
    if floats:
        results.append(_floats(df, keys, floats, row_key, plan))
    for column in dict.fromkeys(it.column for it in wanted if it.kind in VALUES):
        chosen = [it for it in wanted if it.kind in VALUES and it.column == column]
        results.append(_values(df, keys, column, chosen, row_key, plan))
    joined = reduce(lambda a, b: _join(a, b, keys), results)
    return joined.select(*K.columns([*keys, *aggs]))


def _parse(name: str, spec: Aggregation) -> _Wanted:
    kind = str(spec[0]) if spec else ""
    if kind in REFUSED:
        raise GridsinkError(f"{kind} cannot be split: {REFUSED[kind]}", name, "choose another aggregation")
    if kind not in COMBINED and kind not in VALUES:
        known = ", ".join([*COMBINED, *VALUES])
        raise GridsinkError(f"unknown aggregation '{kind}': nothing tells how its parts merge", name, f"known: {known}")
    if len(spec) != (3 if kind == "percentile" else 2) or (spec[1] == "*" and kind != "count"):
        form = '("percentile", column, share)' if kind == "percentile" else f'("{kind}", column)'
        raise GridsinkError(f"{kind} is not written like this", name, f"write {form}")
    if kind == "percentile" and not 0 <= spec[2] <= 1:
        raise GridsinkError(f"a percentile's share is between 0 and 1, not {spec[2]}", name, "write 0.95 for P95")
    return _Wanted(name, kind, spec[1], *spec[2:])


def _is_float(df: DataFrame, column: str) -> bool:
    return isinstance(df.schema[column].dataType, T.FractionalType) and not isinstance(
        df.schema[column].dataType, T.DecimalType
    )


def _combined(it: _Wanted) -> Column:
    return COMBINED[it.kind](F.lit(1) if it.column == "*" else K.column(it.column)).alias(it.name)


def _floats(
    df: DataFrame, keys: Sequence[str], wanted: Sequence[_Wanted], row_key: Sequence[str], plan: SaltPlan
) -> DataFrame:
    """Sums and means: rows of a part added in the order of the row key, parts in the order of their reducers."""
    used = sorted({*keys, *row_key, *(it.column for it in wanted)})
    rows = placement.place(df, plan, row_key, used)
    names = {column: number for number, column in enumerate(dict.fromkeys(it.column for it in wanted))}
    ordered = rows.sortWithinPartitions(*K.columns([*keys, *(name for name in row_key if name not in keys)]))
    partial = ordered.groupBy(PLACE, *K.columns(keys)).agg(
        *(
            F.struct(F.sum(K.column(c)).alias("sum"), F.count(K.column(c)).alias("count")).alias(f"{_PART}{n}")
            for c, n in names.items()
        )
    )
    merged = []
    for it in wanted:
        part = F.col(f"{_PART}{names[it.column]}")
        some = F.when(part["count"] > 0, F.struct(F.col(PLACE), part["sum"].alias("sum")))
        listed = F.array_sort(F.collect_list(some))
        total = F.aggregate(listed, F.lit(0.0), lambda sum, it: sum + it["sum"])
        count = F.sum(part["count"])
        value = total if it.kind == "sum" else total / count
        merged.append(F.when(count > 0, value).alias(it.name))
    return partial.groupBy(*K.columns(keys)).agg(*merged)


def _values(
    df: DataFrame,
    keys: Sequence[str],
    column: str,
    wanted: Sequence[_Wanted],
    row_key: Sequence[str],
    plan: SaltPlan,
) -> DataFrame:
    """What follows from how often each value occurs: counted per part, then put together."""
    used = sorted({*keys, *row_key, column})
    rows = placement.place(df, plan, row_key, used).withColumn(_VALUE, K.column(column))
    grouped = rows.groupBy(PLACE, *K.columns(keys), F.col(_VALUE)).agg(F.count("*").alias(_NUMBER))
    # In order, so that a task that runs again writes the same bytes: Spark gives up a job whose shuffle changes.
    counted = grouped.sortWithinPartitions(*K.columns(keys), _VALUE)
    value, number = F.col(_VALUE), F.col(_NUMBER)
    merged = []
    for it in wanted:
        if it.kind == "collect_set":
            result = F.sort_array(F.collect_set(value))
        elif it.kind == "count_distinct":
            result = F.size(F.collect_set(value)).cast("bigint")
        else:
            result = F.percentile(value, it.share, number)
        merged.append(result.alias(it.name))
    return counted.groupBy(*K.columns(keys)).agg(*merged)


def _join(a: DataFrame, b: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Both have the same keys, once each; null is a key like others."""
    other = {name: f"{_PART}key{number}" for number, name in enumerate(keys)}
    b = b.select(*(K.column(name).alias(other.get(name, name)) for name in b.columns))
    same = reduce(Column.__and__, (K.column(name).eqNullSafe(F.col(other[name])) for name in keys))
    return a.join(b, same).drop(*other.values())
