"""Joins whose left side has heavy keys: its rows are spread, and the right rows of these keys go wherever they went."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.errors import GridsinkError
from lib.salting import keys as K
from lib.salting import placement
from lib.salting.plan import SaltPlan

KINDS = {
    "inner": "inner",
    "left": "left", "leftouter": "left", "left_outer": "left",
    "semi": "left_semi", "leftsemi": "left_semi", "left_semi": "left_semi",
    "anti": "left_anti", "leftanti": "left_anti", "left_anti": "left_anti",
}  # fmt: skip
_MATCHED = f"{K.RESERVED}matched"


def salted_join(
    left: DataFrame, right: DataFrame, on: Sequence[str], how: str = "inner", *, row_key: Sequence[str], plan: SaltPlan
) -> DataFrame:
    """`left.join(right, on, how)`, with the heavy keys of `left` spread as `plan` says; `plan` was made for `left`.

    For inner and semi joins profile `left` without its null keys: Spark drops these rows before the shuffle.
    how: inner, left, left_semi or left_anti. row_key: columns that identify a row of `left`. Raises GridsinkError for
    other kinds of join, and where a key's type differs between the sides.
    """
    kind = KINDS.get(how.lower())
    if kind is None:
        raise GridsinkError(
            f"a {how} join cannot be salted: right rows are copied to every part of their key, so one that finds no "
            "match in some part would come out as unmatched although another part has its match",
            ", ".join(on),
            "swap the sides and join left, or add the unmatched right rows by a left_anti join",
        )
    placement.check(left, on, plan, row_key)
    K.check(right, on)
    for name in on:
        kinds = [side.schema[name].dataType.simpleString() for side in (left, right)]
        if kinds[0] != kinds[1]:
            # Equal values of two types hash differently, and would not meet.
            raise GridsinkError(
                f"the key is {kinds[0]} on the left and {kinds[1]} on the right", name, "cast one of them"
            )
    if plan.identity:
        return left.join(right, list(on), kind)
    matched = [*on, placement.PLACE]
    for name in on:
        right = right.where(K.column(name).isNotNull())  # null matches nothing
    spread = placement.place(left, plan, row_key, left.columns)
    if kind in ("inner", "left"):
        return spread.join(placement.replicate(right, plan), matched, kind).drop(placement.PLACE)
    # Spark moves a semi or anti join below a repartitioning, which undoes it; a join with distinct keys stays above.
    distinct = right.select(*K.columns(on)).distinct().withColumn(_MATCHED, F.lit(True))
    joined = spread.join(placement.replicate(distinct, plan), matched, "inner" if kind == "left_semi" else "left")
    if kind == "left_anti":
        joined = joined.where(F.col(_MATCHED).isNull())
    return joined.drop(placement.PLACE, _MATCHED)
