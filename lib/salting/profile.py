"""Measures the load of keys: a count-min sketch in one pass, and exact figures of its hot slots in a second.

The sketch has one row of `slots` counters and is an ordinary aggregation, which Spark combines before its shuffle. A
key above the wanted share makes its slot hot, so none is missed; the second pass aggregates the rows of hot slots
alone, and is left out where no slot is hot. All figures are exact, however the rows are partitioned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lib.errors import GridsinkError
from lib.salting import keys as K

SLOTS = 8192
MOST_REDUCERS = 512
# Names of their own, so that no key's name hides them.
ROWS, LOAD, LEAST, SLOT, DIGEST = (f"{K.RESERVED}{name}" for name in ("rows", "load", "least", "slot", "digest"))


@dataclass(frozen=True)
class HeavyKey:
    """A key above the profile's smallest share. key: its values; digest, slot: see lib.salting.keys."""

    key: tuple[Any, ...]
    digest: int
    slot: int
    rows: int
    load: int


@dataclass(frozen=True)
class Profile:
    """Loads of a DataFrame's keys. load: rows, or the sum of the weight column.

    slots: load per slot, heavy keys included. heavy: heaviest first, all keys with `smallest_share` of it or more.
    """

    keys: tuple[str, ...]
    weight: str | None
    rows: int
    load: int
    slots: tuple[int, ...]
    heavy: tuple[HeavyKey, ...]
    smallest_share: float


def profile(
    df: DataFrame,
    keys: Sequence[str],
    *,
    weight: str | None = None,
    reducers: int = MOST_REDUCERS,
    slots: int = SLOTS,
) -> Profile:
    """Measures the load of each key of `df`. At most `slots` + 8·`reducers` rows come to the driver.

    reducers: the most that a plan from it will have; keys below an eighth of a reducer's mean load are not told apart.
    weight: column of integers such as bytes, null counting as 0; None counts rows. Raises GridsinkError where a column
    is missing, a key's type is not usable, or a weight is negative.
    """
    K.check(df, keys, [weight] if weight else [])
    if weight and not isinstance(df.schema[weight].dataType, T.IntegralType):
        kind = df.schema[weight].dataType.simpleString()
        raise GridsinkError(f"a weight of type {kind} has no exact sum", weight, "cast it to bigint")
    load = F.coalesce(K.column(weight).cast("bigint"), F.lit(0)) if weight else F.lit(1).cast("bigint")
    slot = K.slot(keys, slots)
    sums = _sum(df, [slot.alias(SLOT)], load).toArrow().to_pydict()
    smallest_share = 1 / (8 * reducers)
    if any(value < 0 for value in sums[LEAST]):
        raise GridsinkError("a weight is negative", weight or "", "give sizes or counts")
    loads = [0] * slots
    for number, value in zip(sums[SLOT], sums[LOAD], strict=True):
        loads[number] = value
    total = sum(loads)
    least = max(1, smallest_share * total)
    hot = [number for number, value in enumerate(loads) if value >= least]
    heavy: list[HeavyKey] = []
    if hot:
        within = df.where(slot.isin(hot)) if len(hot) < slots // 2 else df
        found = _sum(within, K.columns(keys), load).where(F.col(LOAD) >= least)
        names = [f"key{number}" for number in range(len(keys))]
        shown = [K.column(key).alias(name) for key, name in zip(keys, names, strict=True)]
        figures = [K.digest(keys).alias(DIGEST), slot.alias(SLOT), F.col(ROWS), F.col(LOAD)]
        for row in found.select(*shown, *figures).toArrow().to_pylist():
            key = tuple(row[name] for name in names)
            heavy.append(HeavyKey(key, row[DIGEST], row[SLOT], row[ROWS], row[LOAD]))
    heavy.sort(key=lambda it: (-it.load, it.digest, repr(it.key)))
    return Profile(tuple(keys), weight, sum(sums[ROWS]), total, tuple(loads), tuple(heavy), smallest_share)


def _sum(df: DataFrame, by: Sequence[Column], load: Column) -> DataFrame:
    return df.groupBy(*by).agg(F.count("*").alias(ROWS), F.sum(load).alias(LOAD), F.min(load).alias(LEAST))
