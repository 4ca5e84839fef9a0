"""Rows of landing files to Parquet files of bronze, by the worker that reads them.

Files are written beside the table's others and become part of it once its log names them: row by row through Spark they
would cost many times as much. `lib.calculation.parts` does the same for results.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

from lib.calculation.parts import run_properties
from lib.calculation.storage import filesystem
from lib.ingest import files
from lib.ingest.instants import dated
from lib.setting_groups import SourceSettings
from lib.tables import ARROW, TABLES, Lake
from lib.tables.bronze import UNDATED, Feed

WRITTEN = "region string, digest string, date date, path string, size bigint, rows bigint"


@dataclass(frozen=True)
class Received:
    """A landing file to read: `path` to open, `relative` to the landing folder."""

    path: str
    relative: str
    region: str
    zone: str
    digest: str
    received: str


def write(
    it: Received, feed: Feed, source: SourceSettings, root: str, first: date, last: date
) -> Iterator[dict[str, Any]]:
    """Writes the file's rows below `root`, the feed's table, a file a day; rows of WRITTEN."""
    schema, system = _file_schema(feed.name), filesystem(root)
    told = {"source_file": it.relative, "digest": it.digest, "received": it.received}
    parts: dict[date, _Part] = {}
    try:
        for batch in files.rows(Path(it.path), feed, source):
            columns = {name: batch.column(name) for name in batch.schema.names}
            columns |= {name: _constant(text, batch.num_rows) for name, text in told.items()}
            day = pa.repeat(pa.scalar(UNDATED, pa.date32()), batch.num_rows)
            if feed.dated:
                columns["at"], day = dated(columns, feed, it.zone, first, last)
            if feed.dated == "date":
                columns["date_text"] = columns["date"]
            rows = pa.table([columns[name] for name in schema.names], names=schema.names)
            days = pc.unique(day).to_pylist()
            for one in days:
                if one not in parts:
                    folder = f"region={quote(it.region, safe=' ')}" + (f"/date={one}" if feed.dated else "")
                    parts[one] = _Part(system, folder, rows.schema)
                parts[one].add(rows if len(days) == 1 else rows.filter(pc.equal(day, pa.scalar(one, pa.date32()))))
    finally:
        for part in parts.values():
            part.close()
    for one, part in parts.items():
        size = system.get_file_info(part.path).size
        yield {
            "region": it.region,
            "digest": it.digest,
            "date": one,
            "path": part.path,
            "size": size,
            "rows": part.rows,
        }


class _Part:
    """One Parquet file."""

    def __init__(self, system: fs.FileSystem, folder: str, schema: pa.Schema) -> None:
        system.create_dir(folder, recursive=True)
        self.path, self.rows = f"{folder}/part-{uuid.uuid4()}.parquet", 0
        self._stream = system.open_output_stream(self.path)
        self._writer = pq.ParquetWriter(self._stream, schema, store_schema=False)

    def add(self, rows: pa.Table) -> None:
        self._writer.write_table(rows)
        self.rows += rows.num_rows

    def close(self) -> None:
        self._writer.close()
        self._stream.close()


def append(lake: Lake, table: str, written: Iterable[Any], run_id: str) -> None:
    """Makes the files part of the table, in one commit."""
    partitions = TABLES[table].partition_by
    actions: list[AddAction | RemoveAction] = [
        AddAction(
            it["path"], it["size"], {name: str(it[name]) for name in partitions}, int(time.time() * 1000), True,
            json.dumps({"numRecords": it["rows"]}),
        )
        for it in written
    ]  # fmt: skip

    def commit(snapshot: DeltaTable) -> None:
        snapshot.create_write_transaction(
            actions, "append", snapshot.schema(), partition_by=list(partitions),
            commit_properties=run_properties(run_id),
        )  # fmt: skip

    if actions:
        lake.commit(table, commit)


def _constant(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), count), pa.array([text]))


def _file_schema(table: str) -> pa.Schema:
    return pa.schema([f for f in ARROW[table] if f.name not in TABLES[table].partition_by])
