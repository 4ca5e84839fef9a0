"""Result files: a worker writes those of its cell, the driver commits them, all of a region's or none.

Delta's own committer works the same way: files are written beside the table's others under names of their own, and are
part of the table only once its log says so. Files of a run that died are invisible and go with the next VACUUM.
Rows so written cost 0.2-0.3 us; through Spark's row-wise Parquet writer and Delta's 10-17 us, more than solving.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.transaction import AddAction, RemoveAction

from lib.calculation.storage import filesystem, partition_folder
from lib.errors import GridsinkError
from lib.tables import ARROW, TABLES, Lake

_ROWS_PER_GROUP = 1 << 16
_BYTES_PER_GROUP = 1 << 25  # of large rows
# Columns of few distinct values: a dictionary on the others costs time and gains nothing.
_DICTIONARY = {
    "network_id", "network_version", "vn_kv", "vm_min_ts", "vm_max_ts", "minutes_below", "minutes_above", "slots_valid",
    "element_type", "side", "loading_max_ts", "loading_basis", "minutes_heavy", "minutes_overload", "engine",
}  # fmt: skip


class WriteFailed(Exception):
    """A result file cannot be written: a full disk, a folder without permission."""


@dataclass(frozen=True)
class Part:
    """One result file of a cell: `path` relative to its table, `digest` the BLAKE3 of its bytes.

    date: "" in tables that are not partitioned by date.
    """

    table: str
    region: str
    date: str
    path: str
    size: int
    rows: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PartWriter:
    """Writes one cell's rows of several tables, one file each; rows are gathered to row groups of a useful size."""

    def __init__(self, roots: dict[str, str], region: str, day: date | None) -> None:
        """day: None for tables that are not partitioned by date."""
        self._roots, self._region, self._date = roots, region, day.isoformat() if day else ""
        self._waiting: dict[str, list[pa.RecordBatch]] = {}
        self._open: dict[str, tuple[Any, str, pq.ParquetWriter, _Hashed]] = {}
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
        for table, (_, path, writer, stream) in self._open.items():
            with _explained(table, self._roots[table]):
                writer.close()
                stream.close()
            digest = stream.hash.hexdigest()
            parts.append(Part(table, self._region, self._date, path, stream.size, self._rows[table], digest))
        return parts

    def discard(self) -> None:
        """Deletes what was written, as far as that can be done: an orphan is invisible and goes with VACUUM."""
        for system, path, writer, stream in self._open.values():
            with contextlib.suppress(OSError, pa.ArrowException):
                writer.close()
            with contextlib.suppress(OSError, pa.ArrowException):
                stream.close()
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
                stream = _Hashed(system.open_output_stream(path))
                writer = pq.ParquetWriter(
                    stream, _file_schema(table), compression="none" if large else "snappy",
                    use_dictionary=[] if large else [n for n in names if n in _DICTIONARY], write_page_checksum=True,
                    data_page_size=1 << 16 if large else None, store_schema=False,
                )  # fmt: skip
                self._open[table] = system, path, writer, stream
            rows = pa.Table.from_batches(batches)
            size = rows.num_rows
            if TABLES[table].large_rows:
                size = min(size, _BYTES_PER_GROUP * size // max(1, rows.nbytes))
            self._open[table][2].write_table(rows, row_group_size=max(1, size))
        self._rows[table] = self._rows.get(table, 0) + rows.num_rows


class _Hashed(io.RawIOBase):
    """A stream that hashes what is written to it."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.hash, self.size = stream, blake3(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.stream.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        if not self.stream.closed:
            self.stream.close()
        super().close()


def discard(lake: Lake, parts: Sequence[Part]) -> None:
    """Deletes result files that will not be committed, as far as that can be done."""
    for part in parts:
        with contextlib.suppress(OSError, pa.ArrowException):
            filesystem(lake.path(part.table)).delete_file(part.path)


def commit(
    lake: Lake, table: str, parts: Sequence[Part], *, regions: Sequence[str], days: Iterable[date] | None, run_id: str
) -> int:
    """Makes `parts` the only rows of these regions and days (None: all), in one commit. Returns the table's version.

    A region's day without a part ends without rows; where the table has nothing else already, nothing is committed.
    Another writer's commit in between means a new try, at most 5.
    """
    partitions = TABLES[table].partition_by
    actions: list[AddAction | RemoveAction] = [
        AddAction(part.path, part.size, {name: getattr(part, name) for name in partitions}, int(time.time() * 1000),
                  True, json.dumps({"numRecords": part.rows}))
        for part in parts
    ]  # fmt: skip
    where: list[tuple[str, str, Any]] = [("region", "in", sorted(regions))]
    if days is not None:
        where.append(("date", "in", sorted(day.isoformat() for day in days)))

    def write(snapshot: DeltaTable) -> None:
        _check(lake, table, snapshot)
        if actions or snapshot.file_uris(partition_filters=where):
            snapshot.create_write_transaction(
                actions, "overwrite", snapshot.schema(), partition_by=list(partitions),
                partition_filters=where, commit_properties=run_properties(run_id),
            )  # fmt: skip

    return lake.commit(table, write)


def commit_quarantine(
    lake: Lake, rows: Sequence[dict[str, Any]], *, job: str, regions: Sequence[str], days: Sequence[date], run_id: str
) -> int:
    """Makes `rows` the job's only quarantined rows of the regions and days. Returns the table's version."""
    data = pa.Table.from_pylist(list(rows), schema=ARROW["quarantine"])
    named = ", ".join(quoted(region) for region in sorted(regions))
    iso = sorted(day.isoformat() for day in days)
    dates = ", ".join(quoted(day) for day in iso)
    where = f"region IN ({named}) AND job = {quoted(job)} AND date IN ({dates})"
    filters = [("region", "in", sorted(regions)), ("job", "=", job), ("date", "in", iso)]

    def write(snapshot: DeltaTable) -> None:
        _check(lake, "quarantine", snapshot)
        if rows or snapshot.file_uris(partition_filters=filters):
            write_deltalake(snapshot, data, mode="overwrite", predicate=where, commit_properties=run_properties(run_id))

    return lake.commit("quarantine", write)


@contextlib.contextmanager
def _explained(table: str, root: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as e:
        raise WriteFailed(f"table {table} cannot be written: {' '.join(str(e).split())} (in {root})") from e


def _check(lake: Lake, table: str, snapshot: DeltaTable) -> None:
    found, expected = set(snapshot.schema().to_arrow().names), set(ARROW[table].names)
    if found != expected:
        raise GridsinkError(
            f"table {table} has other columns than this gridsink writes: {', '.join(sorted(found ^ expected))}",
            lake.path(table), "move the table away; the job makes it again",
        )  # fmt: skip


def run_properties(run_id: str) -> CommitProperties:
    """What delta-rs notes with a commit of this run."""
    return CommitProperties(custom_metadata={"userMetadata": json.dumps({"run_id": run_id})})


def _file_schema(table: str) -> pa.Schema:
    """Columns in the files: all but the partition's."""
    return pa.schema([f for f in ARROW[table] if f.name not in TABLES[table].partition_by])


def quoted(text: str) -> str:
    """The text as a literal in a predicate of delta-rs."""
    return "'" + text.replace("'", "''") + "'"
