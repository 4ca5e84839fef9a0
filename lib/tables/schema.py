"""What a table is: columns with types, units and meaning; the key; the partitioning. No Spark session needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyspark.sql import types as t

_TYPES: dict[str, tuple[t.DataType, pa.DataType]] = {
    "string": (t.StringType(), pa.string()),
    "boolean": (t.BooleanType(), pa.bool_()),
    "int": (t.IntegerType(), pa.int32()),
    "bigint": (t.LongType(), pa.int64()),
    "double": (t.DoubleType(), pa.float64()),
    "date": (t.DateType(), pa.date32()),
    "timestamp": (t.TimestampType(), pa.timestamp("us", tz="UTC")),
    "binary": (t.BinaryType(), pa.binary()),
    "array<float>": (t.ArrayType(t.FloatType()), pa.list_(pa.float32())),
    "array<double>": (t.ArrayType(t.DoubleType()), pa.list_(pa.float64())),
    "array<bigint>": (t.ArrayType(t.LongType()), pa.list_(pa.int64())),
    "array<boolean>": (t.ArrayType(t.BooleanType()), pa.list_(pa.bool_())),
    "array<timestamp>": (t.ArrayType(t.TimestampType()), pa.list_(pa.timestamp("us", tz="UTC"))),
}


@dataclass(frozen=True)
class Column:
    """One column: `type` is a Spark SQL name, `comment` the unit and meaning that DESCRIBE shows."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Table:
    """One Delta table at <lake>/<layer>/<name>.

    `key` names the columns that identify a row. `large_rows` marks tables whose rows are megabytes of float noise:
    Parquet then neither compresses them nor tries dictionaries, and closes a row group after a few rows.
    """

    layer: str
    name: str
    comment: str
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    columns: tuple[Column, ...]
    large_rows: bool = False

    @cached_property
    def schema(self) -> t.StructType:
        """Spark schema; every column nullable, as in files of any origin, with its comment."""
        return t.StructType(
            [t.StructField(c.name, _TYPES[c.type][0], True, {"comment": c.comment}) for c in self.columns]
        )

    @cached_property
    def arrow(self) -> pa.Schema:
        """Arrow schema of the same columns; timestamps are UTC microseconds."""
        return pa.schema([pa.field(c.name, _TYPES[c.type][1]) for c in self.columns])

    def mismatches(self, schema: t.StructType) -> list[str]:
        """What of `schema` (columns in any order) does not fit this table, one sentence each; empty if it fits."""
        given: dict[str, Any] = {f.name: f.dataType for f in schema}
        problems = [
            f"column {f.name}: expected {f.dataType.simpleString()}, "
            + (f"actual {given[f.name].simpleString()}" if f.name in given else "but it is missing")
            for f in self.schema
            if f.name not in given or given[f.name].simpleString() != f.dataType.simpleString()
        ]
        known = set(self.schema.names)
        return problems + [
            f"column {name}: unknown to the table, actual {kind.simpleString()}"
            for name, kind in given.items()
            if name not in known
        ]


REGION = Column("region", "string", "region of the network; one commit and one owner of data per region")
DATE = Column("date", "date", "civil day in the region's time zone: 92, 96 or 100 quarter-hours")
NETWORK_ID = Column("network_id", "string", "what one source feeds and what is solved together")
NETWORK_VERSION = Column("network_version", "int", "version of the network's model, counted from 1")
