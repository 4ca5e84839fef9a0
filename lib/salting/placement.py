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

REDUCER = f"{K.RESERVED}reducer"
SPLIT = f"{K.RESERVED}split"  # whether the row's key goes to more than one reducer
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


def place(df: DataFrame, plan: SaltPlan, row_key: Sequence[str]) -> DataFrame:
    """Rows on their reducers, one partition each, with the columns REDUCER and SPLIT."""
    if plan.identity:
        hashed = df.repartition(plan.reducers, *K.columns(plan.keys))
        return hashed.withColumn(REDUCER, F.lit(0)).withColumn(SPLIT, F.lit(False))
    chosen = F.element_at(_CHUNKS, (F.pmod(F.xxhash64(*K.columns(row_key)), F.size(_CHUNKS)) + 1).cast("int"))
    return _repartition(_with_chunks(df, plan), plan, F.coalesce(chosen, _slot_reducer(plan)))


def replicate(df: DataFrame, plan: SaltPlan) -> DataFrame:
    """Rows on every reducer that `place` sends rows of their key to, with the column REDUCER."""
    everywhere = F.explode(F.coalesce(F.array_distinct(_CHUNKS), F.array(_slot_reducer(plan))))
    return _repartition(_with_chunks(df, plan), plan, everywhere).drop(SPLIT)


def _with_chunks(df: DataFrame, plan: SaltPlan) -> DataFrame:
    """With the reducers of the key's chunks, or null where the key is not placed by itself."""
    table = pa.table(
        {
            _DIGEST: pa.array(list(plan.chunks), pa.int64()),
            _CHUNKS: pa.array(list(plan.chunks.values()), pa.list_(pa.int32())),
            SPLIT: pa.array([len(set(parts)) > 1 for parts in plan.chunks.values()], pa.bool_()),
        }
    )
    lookup = F.broadcast(df.sparkSession.createDataFrame(table))
    return df.withColumn(_DIGEST, K.digest(plan.keys)).join(lookup, _DIGEST, "left")


def _slot_reducer(plan: SaltPlan) -> Column:
    # One text, cast while planning: thousands of literals would be as many expressions.
    table = F.expr(f"cast(split('{','.join(map(str, plan.slots))}', ',') as array<int>)")
    return F.element_at(table, K.slot(plan.keys, len(plan.slots)) + 1)


def _repartition(df: DataFrame, plan: SaltPlan, reducer: Column) -> DataFrame:
    split = F.coalesce(F.col(SPLIT), F.lit(False))
    rows = df.withColumn(REDUCER, reducer).withColumn(SPLIT, split).drop(_DIGEST, _CHUNKS)
    return rows.repartitionById(plan.reducers, F.col(REDUCER))
