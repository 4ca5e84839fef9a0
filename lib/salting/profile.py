"""Measures the load of keys: a count-min sketch in one pass, and exact figures of its hot slots in a second.

The sketch (Cormode and Muthukrishnan 2005) has one row of counters and is an ordinary aggregation, which Spark combines
before its shuffle. A key above the wanted share makes its slot hot, so none is missed; the second pass aggregates the
rows of hot slots alone, and is left out where the slots as they are can be spread evenly. All figures are exact,
however the rows are partitioned.
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
from lib.salting.packing import pack_slots

MOST_REDUCERS = 512
SLOTS = 32  # for each reducer
LEAST_SLOTS = 1024
EVEN_SLOTS = 1.05  # largest load over the mean, up to which slots are spread as they are
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

    slots: load per slot, heavy keys included. heavy: heaviest first, all keys with `smallest_share` of it or more; none
    where the slots as they are can be spread evenly.
    """

    keys: tuple[str, ...]
    weight: str | None
    rows: int
    load: int
    slots: tuple[int, ...]
    heavy: tuple[HeavyKey, ...]
    smallest_share: float


def profile(df: DataFrame, keys: Sequence[str], *, weight: str | None = None, reducers: int = MOST_REDUCERS) -> Profile:
    """Measures the load of each key of `df`. Some 40 rows for each of `reducers` come to the driver.

    reducers: the most that a plan from it will have; keys below an eighth of a reducer's mean load are not told apart.
    weight: column of integers such as bytes, null counting as 0; None counts rows. Raises GridsinkError where a column
    is missing, a key's type is not usable, or a weight is negative.
    """
    K.check(df, keys, [weight] if weight else [])
    if weight and not isinstance(df.schema[weight].dataType, T.IntegralType):
        kind = df.schema[weight].dataType.simpleString()
        raise GridsinkError(f"a weight of type {kind} has no exact sum", weight, "cast it to bigint")
    slots = reducers * max(SLOTS, LEAST_SLOTS // reducers)  # a multiple, so that a plain shuffle's loads are known
    sums = _sums(df, [K.slot(keys, slots).alias(SLOT)], weight).toArrow().to_pydict()
    if any(value < 0 for value in sums.get(LEAST, [])):
        raise GridsinkError("a weight is negative", weight or "", "give sizes or counts")
    loads = [0] * slots
    for number, value in zip(sums[SLOT], sums[LOAD if weight else ROWS], strict=True):
        loads[number] = value
    total = sum(loads)
    smallest_share = 1 / (8 * reducers)
    heavy: list[HeavyKey] = []
    if max(pack_slots(loads, reducers)[1]) > EVEN_SLOTS * total / reducers:
        least = max(1, smallest_share * total)
        heavy = _heavy(df, keys, weight, slots, [number for number, value in enumerate(loads) if value >= least], least)
    return Profile(tuple(keys), weight, sum(sums[ROWS]), total, tuple(loads), tuple(heavy), smallest_share)


def _heavy(
    df: DataFrame, keys: Sequence[str], weight: str | None, slots: int, hot: Sequence[int], least: float
) -> list[HeavyKey]:
    """Keys of the hot slots with a load of at least `least`, the heaviest first."""
    if not hot:
        return []
    slot = K.slot(keys, slots)
    within = df.where(slot.isin(hot)) if len(hot) < slots // 2 else df
    sums = _sums(within, K.columns(keys), weight)
    load = F.col(LOAD if weight else ROWS)
    names = [f"key{number}" for number in range(len(keys))]
    shown = [K.column(key).alias(name) for key, name in zip(keys, names, strict=True)]
    figures = [K.digest(keys).alias(DIGEST), slot.alias(SLOT), F.col(ROWS), load.alias(LOAD)]
    found = [
        HeavyKey(tuple(row[name] for name in names), row[DIGEST], row[SLOT], row[ROWS], row[LOAD])
        for row in sums.where(load >= least).select(*shown, *figures).toArrow().to_pylist()
    ]
    return sorted(found, key=lambda it: (-it.load, it.digest, repr(it.key)))


def _sums(df: DataFrame, by: Sequence[Column], weight: str | None) -> DataFrame:
    """Rows by `by`, and of a weight its sum and least value."""
    if weight is None:
        return df.groupBy(*by).agg(F.count("*").alias(ROWS))
    load = F.coalesce(K.column(weight).cast("bigint"), F.lit(0))
    return df.groupBy(*by).agg(F.count("*").alias(ROWS), F.sum(load).alias(LOAD), F.min(load).alias(LEAST))
