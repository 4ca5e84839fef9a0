"""Columns by name, and what may be a key."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lib.errors import GridsinkError

RESERVED = "_salt_"  # prefix of the columns that salting adds and takes away again
EXACT_TYPES = (T.IntegralType, T.StringType, T.BooleanType, T.DateType, T.TimestampType, T.TimestampNTZType)
KEY_TYPES = (*EXACT_TYPES, T.DecimalType, T.BinaryType)


def column(name: str) -> Column:
    """The column of this name, dots and all."""
    return F.col("`" + name.replace("`", "``") + "`")


def columns(names: Sequence[str]) -> list[Column]:
    return [column(name) for name in names]


def digest(keys: Sequence[str]) -> Column:
    """64-bit hash of the key. Two keys that share one are planned as one, which costs balance and no result."""
    return F.xxhash64(*columns(keys))


def slot(keys: Sequence[str], slots: int) -> Column:
    """The slot of a key: Spark's own hash, so that a plain shuffle on n reducers is known from n·m slots."""
    return F.pmod(F.hash(*columns(keys)), F.lit(slots))


def check(df: DataFrame, keys: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raises GridsinkError if a column is missing or reserved, or a key's type has no exact equality."""
    if not keys:
        raise GridsinkError("no key is given", remedy="name the columns that make a group")
    if len(set(keys)) != len(keys):
        raise GridsinkError("a key is given twice", ", ".join(keys), "name each column once")
    missing = [name for name in (*keys, *others) if name not in df.columns]
    if missing:
        known = ", ".join(df.columns)
        raise GridsinkError(f"no such column: {', '.join(missing)}", f"a DataFrame with {known}", "correct the names")
    reserved = [name for name in df.columns if name.startswith(RESERVED)]
    if reserved:
        raise GridsinkError("names that begin with _salt_ are reserved", ", ".join(reserved), "rename these columns")
    for name in keys:
        kind = df.schema[name].dataType
        if not isinstance(kind, KEY_TYPES):
            raise GridsinkError(
                f"a key cannot be of type {kind.simpleString()}", name, "cast it to an integer, a decimal or a string"
            )
