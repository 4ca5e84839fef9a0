"""Calculates group by group with Python functions that can be split: part by part, then the parts' results merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from lib.errors import GridsinkError
from lib.salting import keys as K
from lib.salting import placement
from lib.salting.plan import SaltPlan
from lib.salting.runs import NUMBER, PARTIAL, RESULT, Merge, Merging, Partial, Partials

BLOCK_ROWS = 1_000_000


def salted_group_map(
    df: DataFrame,
    keys: Sequence[str],
    partial: Partial,
    merge: Merge,
    schema: T.StructType | str,
    *,
    row_key: Sequence[str],
    plan: SaltPlan,
    columns: Sequence[str] | None = None,
    ordered: bool = True,
    block_rows: int = BLOCK_ROWS,
) -> DataFrame:
    """Applies `partial` to parts of each group and `merge` to what that gave; one DataFrame of keys and `schema`.

    partial: rows of one key, at most `block_rows` in the order of `row_key` -> a small table of any schema.
    merge: the partial tables of one key, at least one, always in the same order -> a table with the columns of
    `schema`, without the keys; it must not matter how the rows were parted. Both run in Spark's Python workers.
    schema: columns and types of merge's result, keys not among them. row_key: columns that identify a row.
    columns: what partial reads, the key if it does; None for all. Of others only those travel that order the rows.
    ordered=False leaves the order of rows open and sorts faster, where the order cannot change what partial gives.
    A key on one reducer is merged there; the second stage gets results and the partials of split keys, never rows.
    """
    if not (callable(partial) and callable(merge)):
        raise GridsinkError(
            "a group map without both partial and merge cannot be split",
            ", ".join(keys),
            "write the calculation as partial(rows) and merge(partials), or use applyInArrow, which splits nothing",
        )
    wanted = tuple(df.columns if columns is None else columns)
    placement.check(df, keys, plan, row_key, wanted)
    result = schema if isinstance(schema, T.StructType) else cast(T.StructType, T.StructType.fromDDL(schema))
    clash = [name for name in result.names if name in keys]
    if clash:
        raise GridsinkError(
            "schema names a key", ", ".join(clash), "leave the keys out: they are added to each result row"
        )
    fields = [T.StructField(name, df.schema[name].dataType) for name in keys]
    whole = T.StructType([*fields, *result.fields])
    order = list(dict.fromkeys([*keys, *(row_key if ordered else ())]))
    travelling = [name for name in df.columns if name in {*order, *wanted}]
    calculation = tuple(keys), wanted, partial, merge, to_arrow_schema(result)
    if not plan.split:
        rows = placement.together(df, plan, row_key, travelling).sortWithinPartitions(*K.columns(order))
        return rows.mapInArrow(Partials(*calculation, to_arrow_schema(whole), plan.reducers, block_rows), whole)
    between = T.StructType(
        [
            *fields,
            T.StructField(placement.PLACE, T.IntegerType()),
            T.StructField(NUMBER, T.LongType()),
            T.StructField(PARTIAL, T.BinaryType()),
            T.StructField(RESULT, result),
        ]
    )
    rows = placement.place(df, plan, row_key, travelling).sortWithinPartitions(*K.columns(order))
    first = Partials(*calculation, to_arrow_schema(between), plan.reducers, block_rows)
    second = Merging(tuple(keys), merge, to_arrow_schema(result), to_arrow_schema(whole))
    # Without a number, so that adaptive execution may take few tasks for few partials.
    together = rows.mapInArrow(first, between).repartition(*K.columns(keys))
    return together.sortWithinPartitions(*K.columns([*keys, placement.PLACE, NUMBER])).mapInArrow(second, whole)
