"""Replaces a region's rows of a table by those of a DataFrame: workers write the files, the driver commits them.

Spark's own Delta writer takes a row at a time and seconds for a commit; see lib.calculation.parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby, pairwise
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from lib.calculation.parts import Part, PartWriter, commit, discard
from lib.tables import Lake, LakeError
from lib.tables.catalog import TABLES
from lib.tables.schema import Table

_Partition = tuple[str | None, date | None]
_PARTS = pa.schema(
    [
        *((name, pa.string()) for name in ("table", "region", "date", "path")),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("digest", pa.string()),
    ]
)


def replace(
    lake: Lake,
    table: str,
    df: DataFrame,
    *,
    region: str,
    first: date | None = None,
    last: date | None = None,
    run_id: str = "",
) -> int:
    """Makes the rows of `df` the region's only ones, in one commit. Returns the table's version.

    first, last: replace these days alone, both included; None, the only way for tables that are not partitioned by
    date, for all. The table is made if absent. An empty `df` leaves no rows. A second call with equal rows leaves equal
    tables. Where the commit meets another writer's it is tried again, at most 5 times. `run_id` goes into the commit's
    metadata only.

    Raises LakeError where `df` has not the table's columns or rows that lie outside of what is replaced.
    """
    declared = TABLES[table]
    problems = declared.mismatches(df.schema)
    if problems:
        where = f"{lake.path(table)}, region {region}"
        raise LakeError(f"rows do not fit table {table}: {'; '.join(problems)}", where, "mend the rows")
    if (first is None) != (last is None) or (first and "date" not in declared.partition_by):
        raise ValueError(f"table {table} is partitioned by {', '.join(declared.partition_by)}: give both days or none")
    lake.create(table)
    lake.check(declared)
    rows = df.select(*declared.schema.names).sortWithinPartitions(*declared.partition_by, *declared.key)
    written = rows.mapInArrow(
        _Writing(declared, lake.path(table), region, first, last), from_arrow_schema(_PARTS)
    ).collect()
    parts = [Part(**row.asDict()) for row in written]
    outside = sorted({(it.region, it.date) for it in parts if not it.path})
    if outside:
        discard(lake, [it for it in parts if it.path])
        shown = ", ".join(" ".join(filter(None, it)) for it in outside[:5])
        where = f"{lake.path(table)}, region {region}, {first or 'all'} to {last or 'days'}"
        raise LakeError(f"rows of table {table} lie outside of what is replaced: {shown}", where, "mend the rows")
    days = [date.fromordinal(k) for k in range(first.toordinal(), last.toordinal() + 1)] if first and last else None
    return commit(lake, table, parts, regions=[region], days=days, run_id=run_id)


@dataclass(frozen=True)
class _Writing:
    """Writes rows that are ordered by region and date, a file of each; rows outside are told by a part without path."""

    table: Table
    root: str
    region: str
    first: date | None
    last: date | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for (region, day), rows in groupby(self._runs(batches), key=itemgetter(0)):
            if region != self.region or (day and self.first and self.last and not self.first <= day <= self.last):
                yield self._told([Part(self.table.name, region or "no region", str(day or ""), "", 0, 0, "")])
                continue
            writer = PartWriter({self.table.name: self.root}, region, day)
            try:
                for _, run in rows:
                    writer.add(self.table.name, run, {})
                yield self._told(writer.close())
            except BaseException:
                writer.discard()
                raise

    def _runs(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[_Partition, pa.RecordBatch]]:
        """The rows in runs of one region and day."""
        for batch in batches:
            columns = [batch.column(name) for name in self.table.partition_by]
            ends = sorted({end for it in columns for end in pc.run_end_encode(it).run_ends.to_pylist()})
            for begin, end in pairwise([0, *ends]):
                region, day = ([it[begin].as_py() for it in columns] + [None])[:2]
                yield (region, day), batch.slice(begin, end - begin)

    def _told(self, parts: list[Part]) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist([it.to_json() for it in parts], schema=_PARTS)
