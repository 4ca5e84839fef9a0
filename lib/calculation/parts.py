"""Result files: a worker writes those of its cell, the driver commits them, all of a region's or none.

Delta's own committer works the same way: files are written beside the table's others under names of their own, and are
part of the table only once its log says so. Files of a run that died are invisible and go with the next VACUUM.
Rows so written cost 0.2-0.3 us; through Spark's row-wise Parquet writer and Delta's 10-17 us, more than solving.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from lib.calculation.storage import filesystem, partition_folder
from lib.errors import GridsinkError
from lib.tables import ARROW, TABLES, Lake

_ROWS_PER_GROUP = 1 << 16
_ATTEMPTS = 5
# Columns of few distinct values: a dictionary on the others costs time and gains nothing.
_DICTIONARY = {
    "network_id", "network_version", "vn_kv", "vm_min_ts", "vm_max_ts", "minutes_below", "minutes_above", "slots_valid",
    "element_type", "side", "loading_max_ts", "loading_basis", "minutes_heavy", "minutes_overload", "engine",
}  # fmt: skip


class WriteFailed(Exception):
    """A result file cannot be written: a full disk, a folder without permission."""


@dataclass(frozen=True)
class Part:
    """One result file of a cell: `path` relative to its table."""

    table: str
    region: str
    date: str
    path: str
    size: int
    rows: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PartWriter:
    """Writes one cell's rows of several tables, one file each; rows are gathered to row groups of a useful size."""

    def __init__(self, roots: dict[str, str], region: str, day: date) -> None:
        self._roots, self._region, self._date = roots, region, day.isoformat()
        self._waiting: dict[str, list[pa.RecordBatch]] = {}
        self._open: dict[str, tuple[Any, str, pq.ParquetWriter]] = {}
        self._rows: dict[str, int] = {}

    def add(self, table: str, rows: pa.RecordBatch, constants: dict[str, Any]) -> None:
        """Adds rows; `constants` are columns that are the same in all of them. Raises WriteFailed."""
        schema = _file_schema(table)
        columns = [
            rows.column(name)
            if name in rows.schema.names
            else pa.repeat(pa.scalar(constants[name], kind), rows.num_rows)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        waiting = self._waiting.setdefault(table, [])
        waiting.append(batch)
        large = TABLES[table].large_rows
        if large or sum(b.num_rows for b in waiting) >= _ROWS_PER_GROUP:
            self._flush(table)

    def close(self) -> list[Part]:
        """Finishes the files and returns them. Raises WriteFailed."""
        for table in list(self._waiting):
            self._flush(table)
        parts = []
        for table, (system, path, writer) in self._open.items():
            with _explained(table, self._roots[table]):
                writer.close()
                size = system.get_file_info(path).size
            parts.append(Part(table, self._region, self._date, path, size, self._rows[table]))
        return parts

    def discard(self) -> None:
        """Deletes what was written, as far as that can be done: an orphan is invisible and goes with VACUUM."""
        for system, path, writer in self._open.values():
            with contextlib.suppress(OSError, pa.ArrowException):
                writer.close()
            with contextlib.suppress(OSError, pa.ArrowException):
                system.delete_file(path)

    def _flush(self, table: str) -> None:
        batches = self._waiting.pop(table, [])
        if not batches:
            return
        with _explained(table, self._roots[table]):
            if table not in self._open:
                system = filesystem(self._roots[table])
                folder = partition_folder(self._region, self._date)
                system.create_dir(folder, recursive=True)
                path = f"{folder}/part-{uuid.uuid4()}.parquet"
                names = _file_schema(table).names
                large = TABLES[table].large_rows
                writer = pq.ParquetWriter(
                    path, _file_schema(table), filesystem=system, compression="none" if large else "snappy",
                    use_dictionary=[] if large else [n for n in names if n in _DICTIONARY], write_page_checksum=True,
                    data_page_size=1 << 16 if large else None, store_schema=False,
                )  # fmt: skip
                self._open[table] = system, path, writer
            rows = pa.Table.from_batches(batches)
            self._open[table][2].write_table(rows, row_group_size=max(1, rows.num_rows))
        self._rows[table] = self._rows.get(table, 0) + rows.num_rows


def discard(lake: Lake, parts: Sequence[Part]) -> None:
    """Deletes result files that will not be committed, as far as that can be done."""
    for part in parts:
        with contextlib.suppress(OSError, pa.ArrowException):
            filesystem(lake.path(part.table)).delete_file(part.path)


def commit(lake: Lake, table: str, parts: Sequence[Part], *, region: str, days: Iterable[date], run_id: str) -> int:
    """Makes `parts` the region's only rows of `days` in one commit. Returns the table's version.

    A day without a part ends without rows. Another writer's commit in between means a new try, at most 5.
    """
    actions: list[AddAction | RemoveAction] = [
        AddAction(part.path, part.size, {"region": part.region, "date": part.date}, int(time.time() * 1000), True,
                  json.dumps({"numRecords": part.rows}))
        for part in parts
    ]  # fmt: skip
    where = [("region", "=", region), ("date", "in", sorted(day.isoformat() for day in days))]

    def write(snapshot: DeltaTable) -> None:
        snapshot.create_write_transaction(
            actions, "overwrite", snapshot.schema(), partition_by=list(TABLES[table].partition_by),
            partition_filters=where, commit_properties=_properties(run_id),
        )  # fmt: skip

    return _retried(lake, table, write)


def commit_quarantine(
    lake: Lake, rows: Sequence[dict[str, Any]], *, job: str, region: str, days: Sequence[date], run_id: str
) -> int:
    """Makes `rows` the job's only quarantined rows of the region and days. Returns the table's version."""
    data = pa.Table.from_pylist(list(rows), schema=ARROW["quarantine"])
    first, last = min(days), max(days)
    where = f"region = {_quoted(region)} AND job = {_quoted(job)} AND date >= '{first}' AND date <= '{last}'"

    def write(snapshot: DeltaTable) -> None:
        known = pa.table(snapshot.get_add_actions(flatten=True)).to_pylist()
        old = any(
            f["partition.region"] == region and f["partition.job"] == job and first <= f["partition.date"] <= last
            for f in known
        )
        if rows or old:
            write_deltalake(snapshot, data, mode="overwrite", predicate=where, commit_properties=_properties(run_id))

    return _retried(lake, "quarantine", write)


@contextlib.contextmanager
def _explained(table: str, root: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as e:
        raise WriteFailed(f"table {table} cannot be written: {' '.join(str(e).split())} (in {root})") from e


def _retried(lake: Lake, table: str, write: Any) -> int:
    for attempt in range(_ATTEMPTS):
        snapshot = DeltaTable(lake.path(table))
        found, expected = set(snapshot.schema().to_arrow().names), set(ARROW[table].names)
        if found != expected:
            raise GridsinkError(
                f"table {table} has other columns than this gridsink writes: {', '.join(sorted(found ^ expected))}",
                lake.path(table), "move the table away; the job makes it again",
            )  # fmt: skip
        try:
            write(snapshot)
            return DeltaTable(lake.path(table)).version()
        except CommitFailedError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def _properties(run_id: str) -> CommitProperties:
    return CommitProperties(custom_metadata={"userMetadata": json.dumps({"run_id": run_id})})


def _file_schema(table: str) -> pa.Schema:
    """Columns in the files: all but the partition's."""
    return pa.schema([f for f in ARROW[table] if f.name not in TABLES[table].partition_by])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
