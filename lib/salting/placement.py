"""Sends rows where a plan says, by an explicit partition id.

The chunk of a row is a hash of the columns that identify it, never a random number: a task that runs again sends every
row to the reducer it went to before.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lib.errors import GridsinkError
from lib.salting import keys as K
from lib.salting.plan import SaltPlan

# The reducer of a row; a split key's is that plus the number of reducers, which sends it to the same partition.
PLACE = f"{K.RESERVED}place"
_DIGEST, _CHUNKS = f"{K.RESERVED}digest", f"{K.RESERVED}chunks"


def check(
    df: DataFrame, keys: Sequence[str], plan: SaltPlan, row_key: Sequence[str], others: Sequence[str] = ()
) -> None:
    """Raises GridsinkError if plan and keys differ, columns are missing, or nothing tells rows of a key apart."""
    K.check(df, keys, [*row_key, *others])
    if tuple(keys) != plan.keys:
        raise GridsinkError(
            "the plan was made for other keys", f"{', '.join(plan.keys)}, not {', '.join(keys)}", "profile these keys"
        )
    if not set(row_key) - set(keys):
        raise GridsinkError(
            "nothing tells the rows of a key apart", ", ".join(keys), "give the columns that identify a row as row_key"
        )


def place(df: DataFrame, plan: SaltPlan, row_key: Sequence[str], columns: Sequence[str]) -> DataFrame:
    """These columns of the rows, each on its reducer, one partition each, with the column PLACE."""
    if plan.identity:
        return together(df, plan, row_key, columns).withColumn(PLACE, F.lit(0))
    chosen = F.element_at(_CHUNKS, (F.pmod(F.xxhash64(*K.columns(row_key)), F.size(_CHUNKS)) + 1).cast("int"))
    place = F.coalesce(chosen, _slot_reducer(plan)).alias(PLACE)
    return _with_chunks(df, plan).select(*K.columns(columns), place).repartitionById(plan.reducers, F.col(PLACE))


def together(df: DataFrame, plan: SaltPlan, row_key: Sequence[str], columns: Sequence[str]) -> DataFrame:
    """As `place`, where the plan splits no key: nothing but these columns travels."""
    if plan.identity:
        return df.select(*K.columns(columns)).repartition(plan.reducers, *K.columns(plan.keys))
    if plan.chunks:
        return place(df, plan, row_key, columns).drop(PLACE)
    return df.select(*K.columns(columns)).repartitionById(plan.reducers, _slot_reducer(plan))


def replicate(df: DataFrame, plan: SaltPlan) -> DataFrame:
    """Rows on every reducer that `place` sends rows of their key to, with the column PLACE."""
    everywhere = F.explode(F.coalesce(F.array_distinct(_CHUNKS), F.array(_slot_reducer(plan)))).alias(PLACE)
    rows = _with_chunks(df, plan).select(*K.columns(df.columns), everywhere)
    return rows.repartitionById(plan.reducers, F.col(PLACE))


def _with_chunks(df: DataFrame, plan: SaltPlan) -> DataFrame:
    """With the places of the key's chunks, or null where the key is not placed by itself."""
    chunks = [[reducer + plan.reducers * (len(set(parts)) > 1) for reducer in parts] for parts in plan.chunks.values()]
    table = pa.table(
        {_DIGEST: pa.array(list(plan.chunks), pa.int64()), _CHUNKS: pa.array(chunks, pa.list_(pa.int32()))}
    )
    lookup = F.broadcast(df.sparkSession.createDataFrame(table))
    return df.withColumn(_DIGEST, K.digest(plan.keys)).join(lookup, _DIGEST, "left")


def _slot_reducer(plan: SaltPlan) -> Column:
    # One text, cast while planning: thousands of literals would be as many expressions.
    table = F.expr(f"cast(split('{','.join(map(str, plan.slots))}', ',') as array<int>)")
    return F.element_at(table, K.slot(plan.keys, len(plan.slots)) + 1)
