"""Figures: the columns of a cell's partial, and how partials of many cells become one.

Sums of floats are folded in the order of the tables given, so that the same cells in the same order give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.algorithm.operator import Figure
from lib.errors import GridsinkError

_TYPES = {
    "bigint": pa.int64(), "double": pa.float64(), "timestamp": pa.timestamp("us", tz="UTC"), "date": pa.date32(),
    "boolean": pa.bool_(),
}  # fmt: skip


def schema(keys: pa.Schema, figures: Mapping[str, Figure]) -> pa.Schema:
    """Columns of a partial: the keys, then the figures."""
    return pa.schema([*keys, *(pa.field(name, _TYPES[figure.type]) for name, figure in figures.items())])


def merge(tables: Sequence[pa.Table], keys: Sequence[str], figures: Mapping[str, Figure]) -> pa.Table:
    """One row per distinct `keys`, the figures of equal keys combined in the order of `tables` and of their rows.

    All tables have the same columns; others than keys and figures are dropped. Rows of the result are sorted by key.
    Raises GridsinkError where a sum of integers does not fit 64 bits.
    """
    rows = pa.concat_tables(tables).select([*keys, *figures])
    if not keys:
        rows = rows.append_column("_all", pa.repeat(pa.scalar(0), rows.num_rows))
    by = list(keys) or ["_all"]
    options = pc.ScalarAggregateOptions(skip_nulls=True, min_count=1)
    how = [(name, figure.merge, options) for name, figure in figures.items()]
    # one thread: rows are folded in their order
    merged = rows.group_by(by, use_threads=False).aggregate(how)
    for name, figure in figures.items():
        if figure.merge == "sum" and figure.type == "bigint":
            _check_sum(name, rows.column(name))
    renamed = pa.table({name: merged.column(name) for name in keys} | {
        name: merged.column(f"{name}_{figure.merge}").cast(rows.schema.field(name).type)
        for name, figure in figures.items()
    })  # fmt: skip
    return renamed.sort_by([(name, "ascending") for name in keys]) if keys else renamed


def _check_sum(name: str, column: pa.ChunkedArray) -> None:
    """Refuses sums that may have wrapped around: Arrow's grouped sums do not."""
    largest = pc.sum(pc.abs(column.cast(pa.float64()))).as_py()
    if largest is not None and largest >= 2.0**63:
        raise GridsinkError(
            f"the sum of {name} does not fit 64 bits", f"figure {name}", "sum a larger unit, or cast it to double"
        )


def out_of_range(values: Mapping[str, Any], figures: Mapping[str, Figure]) -> list[str]:
    """What of a group's figures lies outside its declared range, one sentence each; NaN is outside any."""
    found = []
    for name, figure in figures.items():
        value = values.get(name)
        if value is None or not isinstance(value, (int, float)):
            continue
        low = figure.minimum is not None and not value >= figure.minimum
        if low or (figure.maximum is not None and not value <= figure.maximum) or value != value:
            limits = f"{figure.minimum} to {figure.maximum}".replace("None", "any")
            found.append(f"{name} is {value} {figure.unit}".rstrip() + f", outside {limits}")
    return found


def to_bytes(table: pa.Table) -> bytes:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(content: bytes) -> pa.Table:
    """The table of `to_bytes`. Raises pyarrow.ArrowException where the bytes are none."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()
